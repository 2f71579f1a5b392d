#include "lora.h"

#include "instruction_sets.h"
#include "runs.h"
#include "workspace.h"

namespace {

void add_part(const InstructionSet& set, const AdaptedRows& run, const RowPart& part, const LoraAdd& given) {
  float* const inner = workspace(size_t(part.end - part.first) * run.rank, true);
  float* const y = given.y + part.first * given.y_stride;
  Linear a;
  a.x = given.x + ptrdiff_t(part.first) * given.depth, a.x_stride = given.depth, a.weight = run.a;
  a.out = inner, a.out_stride = run.rank;
  a.rows = part.end - part.first, a.depth = given.depth, a.width = run.rank;
  set.linear(a);
  a.x_stride = run.rank, a.out_stride = a.onto_stride = given.y_stride, a.activation = run.activation;
  for (const AdaptedRows::Piece& piece : run.pieces) {
    a.x = inner + piece.rank, a.weight = piece.b, a.onto = a.out = y + piece.output;
    a.depth = piece.ranks, a.width = piece.outputs;
    set.linear(a);
  }
}

}  // namespace

void lora_add(const InstructionSet& set, const std::vector<AdaptedRows>& runs, const LoraAdd& given) {
  int rows = 0;
  double work = 0;
  for (const AdaptedRows& run : runs) {
    rows += run.end - run.first;
    work += double(run.end - run.first) * run.rank * (given.depth + given.width);
  }
  if (!rows) return;
  const int threads = work < Linear::SMALL ? 1 : given.threads;
  const std::vector<RowPart> parts =
      row_parts(runs, rows, RowBlocks(rows, threads, Linear::block_rows(set.lanes)).count);
  parallel_for(int(parts.size()), threads, [&](int n) { add_part(set, runs[parts[n].run], parts[n], given); });
}
