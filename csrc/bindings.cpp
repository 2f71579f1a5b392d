// Python sees structs of addresses and sizes, and functions that take them. Neither torch nor its headers are
// needed, so one build serves every version of it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cpu/instruction_sets.h"
#include "cpu/layers.h"
#include "cpu/lora.h"
#ifdef WITH_CUDA
#include "cuda/disentangled_attention.h"
#endif

namespace py = pybind11;

namespace {

// Python makes such a struct from the names of its fields; those it leaves out keep their defaults. In Python
// an address is an integer.
template <typename Struct>
class Fields {
 public:
  template <typename... Places>
  Fields(py::module_& module, const char* name, std::pair<const char*, Places>... fields) {
    (add(fields.first, fields.second), ...);
    py::class_<Struct> made(module, name);
    made.attr("fields") = py::make_tuple(fields.first...);
    made.def(py::init([](const py::kwargs& given) {
      Struct made;
      for (const auto& [key, value] : given) {
        const auto name = py::cast<std::string>(key);
        const auto found = setters.find(name);
        if (found == setters.end()) throw py::type_error("there is no field " + name);
        found->second(made, value);
      }
      return made;
    }));
  }

 private:
  template <typename Owner, typename T>  // The owner may be a base of the struct.
  void add(const char* name, T Owner::* place) {
    using Given = std::conditional_t<std::is_pointer_v<T>, uintptr_t, T>;
    setters[name] = [place](Struct& made, py::handle value) { made.*place = (T)value.cast<Given>(); };
  }

  // Properties, which pybind11 would set one by one, take twice the time.
  inline static std::unordered_map<std::string, std::function<void(Struct&, py::handle)>> setters;
};

// A field of the type `Struct`, which the block around it names by `using`.
#define FIELD(name) std::pair<const char*, decltype(&Struct::name)>(#name, &Struct::name)

// Returns (name, lanes) of this processor's instruction sets, by number for the kernels, fastest first.
py::dict instruction_sets() {
  py::dict found;
  for (int n = 0; n < INSTRUCTION_SET_COUNT; n++)
    if (const auto& set = INSTRUCTION_SETS[n]; set.runs_here())
      found[py::int_(n)] = py::make_tuple(set.name, set.lanes);
  return found;
}

// Raises ValueError for a work list of other tiles.
void check_tiles(const int32_t* tiles) {
  if (tiles[1] != Attention::TILE_ROWS)
    throw std::invalid_argument("tiles must be a work list of " + std::to_string(Attention::TILE_ROWS) +
                                " rows per tile");
}

void attention_cpu(int instruction_set, const Attention& arguments) {
  check_tiles(arguments.tiles);
  INSTRUCTION_SETS[instruction_set].attend(arguments);
}

void linear_cpu(int instruction_set, uintptr_t x, ptrdiff_t x_stride, uintptr_t weight, uintptr_t bias,
                uintptr_t residual, uintptr_t out, int rows, int depth, int width, int activation, bool gated,
                int threads) {
  Linear a;
  a.x = reinterpret_cast<const float*>(x), a.x_stride = x_stride;
  a.weight = reinterpret_cast<const float*>(weight), a.bias = reinterpret_cast<const float*>(bias);
  a.residual = reinterpret_cast<const float*>(residual), a.out = reinterpret_cast<float*>(out);
  a.out_stride = width;
  a.rows = rows, a.depth = depth, a.width = width, a.activation = activation, a.gated = gated;
  a.threads = threads;
  INSTRUCTION_SETS[instruction_set].linear(a);
}

// Raises IndexError where a place is no row of a table.
void check_places(const int32_t* places, int count, int table_rows) {
  for (int n = 0; n < count; n++)
    if (places[n] < 0 || places[n] >= table_rows)
      throw std::out_of_range("there is no row " + std::to_string(places[n]) + " in a table of " +
                              std::to_string(table_rows));
}

// A source is (address of its table, the table's rows, address of int32 places or 0). Raises IndexError.
void norm_cpu(int instruction_set, const std::vector<std::tuple<uintptr_t, int, uintptr_t>>& sources,
              uintptr_t weight, uintptr_t bias, uintptr_t out, int rows, int width, float eps, bool rms,
              int threads) {
  Norm a;
  if (sources.size() > Norm::SOURCES) throw std::invalid_argument("too many sources");
  for (size_t n = 0; n < sources.size(); n++) {
    const auto& [table, table_rows, places] = sources[n];
    a.tables[n] = reinterpret_cast<const float*>(table), a.places[n] = reinterpret_cast<const int32_t*>(places);
    if (places) check_places(a.places[n], rows, table_rows);
  }
  a.weight = reinterpret_cast<const float*>(weight), a.bias = reinterpret_cast<const float*>(bias);
  a.out = reinterpret_cast<float*>(out);
  a.rows = rows, a.width = width, a.eps = eps, a.rms = rms, a.threads = threads;
  INSTRUCTION_SETS[instruction_set].norm(a);
}

void head_norm_cpu(int instruction_set, const HeadNorm& arguments) {
  INSTRUCTION_SETS[instruction_set].head_norm(arguments);
}

void pair_add_cpu(int instruction_set, const Pairs& arguments, int texts) {
  check_places(arguments.owner, arguments.rows, texts);
  INSTRUCTION_SETS[instruction_set].pair_add(arguments);
}

void pair_dot_cpu(int instruction_set, const Pairs& arguments, int texts) {
  check_places(arguments.owner, arguments.rows, texts);
  INSTRUCTION_SETS[instruction_set].pair_dot(arguments);
}

void change_table_cpu(int instruction_set, const TableChange& arguments) {
  INSTRUCTION_SETS[instruction_set].change_table(arguments);
}

void linear_int8_cpu(int instruction_set, const RoundedLinear& arguments) {
  INSTRUCTION_SETS[instruction_set].linear_int8(arguments);
}

void linear_bfloat16_cpu(int instruction_set, const RoundedLinear& arguments) {
  INSTRUCTION_SETS[instruction_set].linear_bfloat16(arguments);
}

// Returns whether int8 adds two neighbouring products up in 16 bits.
bool int8_adds_pairs(int instruction_set) { return INSTRUCTION_SETS[instruction_set].int8_adds_pairs; }

// Returns whether the set has instructions that multiply bfloat16.
bool multiplies_bfloat16(int instruction_set) { return INSTRUCTION_SETS[instruction_set].multiplies_bfloat16; }

// A run is (first row, end of its rows, updates of the maps out, up and down), and an update (address of a,
// address of b, rank), which is 0 for none.
using Update = std::tuple<uintptr_t, uintptr_t, int>;
void feed_forward_cpu(int instruction_set, const FeedForward& layer,
                      const std::vector<std::tuple<int, int, std::array<Update, 3>>>& runs, uintptr_t x,
                      uintptr_t attended, uintptr_t sum, uintptr_t last, int threads) {
  const auto floats = [](uintptr_t address) { return reinterpret_cast<float*>(address); };
  const auto update = [&](const Update& given) {
    const auto& [a, b, rank] = given;
    return LowRank{floats(a), floats(b), rank};
  };
  Runs own;
  for (const auto& [first, end, updates] : runs)
    own.push_back({first, end, {update(updates[0]), update(updates[1]), update(updates[2])}});
  feed_forward(INSTRUCTION_SETS[instruction_set], layer, own, floats(x), floats(attended), floats(sum),
               floats(last), threads);
}

// A run is (first row, end of its rows, address of a, rank, activation, pieces), and a piece (address of b, its
// first output, outputs, its first rank, ranks).
using Piece = std::tuple<uintptr_t, int, int, int, int>;
void lora_add_cpu(int instruction_set,
                  const std::vector<std::tuple<int, int, uintptr_t, int, int, std::vector<Piece>>>& runs,
                  const LoraAdd& arguments) {
  std::vector<AdaptedRows> own;
  for (const auto& [first, end, a, rank, activation, pieces] : runs) {
    own.push_back({first, end, reinterpret_cast<const float*>(a), rank, activation, {}});
    for (const auto& [b, output, outputs, from, ranks] : pieces)
      own.back().pieces.push_back({reinterpret_cast<const float*>(b), output, outputs, from, ranks});
  }
  lora_add(INSTRUCTION_SETS[instruction_set], own, arguments);
}

// `memory` has room for self_attention_scratch(qkv, rows) floats. Raises as attention_cpu does.
void self_attention_cpu(int instruction_set, const PackedMap& qkv, const Attention& attention, uintptr_t x,
                        int rows, uintptr_t tiles, uintptr_t cosines, uintptr_t sines, uintptr_t out,
                        uintptr_t memory, int threads) {
  const auto floats = [](uintptr_t address) { return reinterpret_cast<float*>(address); };
  const auto work = reinterpret_cast<const int32_t*>(tiles);
  check_tiles(work);
  self_attention(INSTRUCTION_SETS[instruction_set], qkv, attention, floats(x), rows, work, floats(cosines),
                 floats(sines), floats(out), floats(memory), threads);
}

// A layer is (map of queries, keys and values, attention, feed-forward half), which the caller keeps.
using LayerParts = std::tuple<const PackedMap*, const Attention*, const FeedForward*>;
Layers layers_of(const std::vector<LayerParts>& given) {
  Layers layers;
  for (const auto& [qkv, attention, feed_forward] : given) layers.push_back({qkv, attention, feed_forward});
  return layers;
}

// As many layers run as there are pairs of addresses of cosines and of sines. `memory` has room for
// layers_scratch(layers, rows) floats. Raises as attention_cpu does.
void layers_cpu(int instruction_set, const Layers& layers,
                const std::vector<std::pair<uintptr_t, uintptr_t>>& rotaries, uintptr_t x, uintptr_t normed,
                int rows, uintptr_t tiles, uintptr_t sum, uintptr_t last, uintptr_t memory, int threads) {
  const auto floats = [](uintptr_t address) { return reinterpret_cast<float*>(address); };
  const auto work = reinterpret_cast<const int32_t*>(tiles);
  check_tiles(work);
  std::vector<Rotary> own;
  for (const auto& [cosines, sines] : rotaries) own.push_back({floats(cosines), floats(sines)});
  run_layers(INSTRUCTION_SETS[instruction_set], layers, own, floats(x), floats(normed), rows, work, floats(sum),
             floats(last), floats(memory), threads);
}

#ifdef WITH_CUDA
void check(int error) {
  if (error) throw std::runtime_error(gliclass_cuda_error(error));
}
#endif

}  // namespace

PYBIND11_MODULE(_compiled, module) {
  module.doc() = "Compiled kernels; their contracts stand in the files of the operations.";
  module.attr("layout") = 8;  // It is another number wherever a field or an argument is another one.
  module.def("instruction_sets", &instruction_sets);
  module.def("attention_cpu", &attention_cpu, py::call_guard<py::gil_scoped_release>());
  module.def("linear_cpu", &linear_cpu, py::call_guard<py::gil_scoped_release>());
  module.def("norm_cpu", &norm_cpu, py::call_guard<py::gil_scoped_release>());
  module.def("head_norm_cpu", &head_norm_cpu, py::call_guard<py::gil_scoped_release>());
  module.def("pair_add_cpu", &pair_add_cpu, py::call_guard<py::gil_scoped_release>());
  module.def("pair_dot_cpu", &pair_dot_cpu, py::call_guard<py::gil_scoped_release>());
  module.def("change_table_cpu", &change_table_cpu, py::call_guard<py::gil_scoped_release>());
  module.def("int8_adds_pairs", &int8_adds_pairs);
  module.def("linear_int8_cpu", &linear_int8_cpu, py::call_guard<py::gil_scoped_release>());
  module.def("multiplies_bfloat16", &multiplies_bfloat16);
  module.def("linear_bfloat16_cpu", &linear_bfloat16_cpu, py::call_guard<py::gil_scoped_release>());
  module.def("feed_forward_cpu", &feed_forward_cpu, py::call_guard<py::gil_scoped_release>());
  module.def("lora_add_cpu", &lora_add_cpu, py::call_guard<py::gil_scoped_release>());
  module.def("self_attention_scratch", &self_attention_scratch);
  module.def("self_attention_cpu", &self_attention_cpu, py::call_guard<py::gil_scoped_release>());
  py::class_<Layers>(module, "Layers").def(py::init(&layers_of));
  module.def("layers_scratch", &layers_scratch);
  module.def("layers_cpu", &layers_cpu, py::call_guard<py::gil_scoped_release>());
  {
    using Struct = DistanceTable;
    Fields<Struct>(module, "DistanceTable", FIELD(panels), FIELD(column_of), FIELD(count), FIELD(reach));
  }
  {
    using Struct = Attention;
    Fields<Struct>(module, "Attention", FIELD(q), FIELD(k), FIELD(v), FIELD(q_stride), FIELD(kv_stride),
                   FIELD(out), FIELD(tiles), FIELD(heads), FIELD(width), FIELD(group), FIELD(causal),
                   FIELD(pages), FIELD(page_rows), FIELD(scale), FIELD(window), FIELD(cosines), FIELD(sines),
                   FIELD(bias), FIELD(reach), FIELD(key_table), FIELD(query_table), FIELD(bfloat16),
                   FIELD(threads));
  }
  {
    using Struct = HeadNorm;
    Fields<Struct>(module, "HeadNorm", FIELD(x), FIELD(stride), FIELD(weight), FIELD(cosines), FIELD(sines),
                   FIELD(out), FIELD(rows), FIELD(heads), FIELD(width), FIELD(eps), FIELD(threads));
  }
  {
    using Struct = TableChange;
    Fields<Struct>(module, "TableChange", FIELD(table), FIELD(head_stride), FIELD(b), FIELD(inner), FIELD(out),
                   FIELD(heads), FIELD(panels), FIELD(width), FIELD(rank), FIELD(threads));
  }
  {
    using Struct = Pairs;
    Fields<Struct>(module, "Pairs", FIELD(text), FIELD(labels), FIELD(owner), FIELD(out), FIELD(rows),
                   FIELD(width), FIELD(activation), FIELD(threads));
  }
  {
    using Struct = RoundedLinear;
    Fields<Struct>(module, "RoundedLinear", FIELD(x), FIELD(x_stride), FIELD(weight), FIELD(bias),
                   FIELD(residual), FIELD(out), FIELD(values), FIELD(ranges), FIELD(rows), FIELD(depth),
                   FIELD(width), FIELD(norm), FIELD(eps), FIELD(activation), FIELD(gated), FIELD(threads));
  }
  {
    using Struct = PackedMap;
    Fields<Struct>(module, "PackedMap", FIELD(rounding), FIELD(weight), FIELD(bias), FIELD(depth), FIELD(width),
                   FIELD(norm), FIELD(eps), FIELD(activation), FIELD(gated));
  }
  {
    using Struct = LoraAdd;
    Fields<Struct>(module, "LoraAdd", FIELD(x), FIELD(y), FIELD(y_stride), FIELD(depth), FIELD(width),
                   FIELD(threads));
  }
  {
    using Struct = FeedForward;
    Fields<Struct>(module, "FeedForward", FIELD(out), FIELD(up), FIELD(down), FIELD(up_norm_weight),
                   FIELD(up_norm_bias), FIELD(first_weight), FIELD(first_bias), FIELD(last_weight),
                   FIELD(last_bias), FIELD(rms), FIELD(eps));
  }
#ifdef WITH_CUDA
  using disentangled::Launch;
  module.attr("cuda_version") = gliclass_cuda_version();
  module.attr("cuda_architectures") = CUDA_ARCHITECTURES;
  module.def("disentangled_attention_cuda",
             [](const Launch& launch) { check(gliclass_disentangled_attention(launch)); });
  module.def(
      "check_device", [] { check(gliclass_usable()); },
      "Raises RuntimeError where the current device or its driver does not take these kernels.");
  module.def("shared_bytes", &gliclass_shared_bytes,
             "Shared memory of a block of 16, 64 or 128 queries whose keys have so many shares.");
  {
    using Struct = Launch;
    Fields<Struct>(module, "DisentangledAttention", FIELD(qkv), FIELD(key_table), FIELD(query_table),
                   FIELD(tiles), FIELD(slots), FIELD(out), FIELD(heads), FIELD(reach), FIELD(held),
                   FIELD(parts), FIELD(scale), FIELD(bf16), FIELD(rows), FIELD(shares), FIELD(stream));
  }
#endif
}
