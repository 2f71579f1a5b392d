// Disentangled attention over packed sequences (He et al., arXiv:2006.03654, equation 4): heads are 64 wide and
// values have 16 bit.
//
//   score(i, j) = scale * (q_i . k_j + q_i . key_table[i - j] + k_j . query_table[i - j])
//
// A block takes ROWS queries of one head against steps of KEYS keys. Within a step only ROWS + KEYS - 1
// consecutive distances occur: they are u = r - c + KEYS - 1 for query r of the block and key c of the step.
//
//   q_r . key_table[u]    for 16 queries from r0 on needs u in [r0, r0 + KEYS + 14]; element (r, u) is for key
//                         c = r - u + KEYS - 1. Lanes exchange these until each has those of its own scores.
//   k_c . query_table[u]  for 16 keys from c0 on needs u in [KEYS - 16 - c0, KEYS + ROWS - 2 - c0]; element
//                         (c, u) is for query r = u + c - (KEYS - 1). It is written to shared memory where
//                         (c, r) belongs and read from there transposed: the address alone un-skews it.
//                         Elements outside the step land in margins beside it.
//
// Each is a GEMM on tensor cores (bands.cuh), and nothing is gathered. A step further, every u is KEYS larger,
// so table rows stay where they are in a ring, with row u at (u + shift) % RING, and only KEYS new ones are
// loaded.
//
// Where every distance of a step is beyond the reach of the tables, all its table rows are the same one: the
// first term is the same for all keys, the second for all queries, and neither needs a band.
//
// Copies to shared memory run behind arithmetic: those of a step's values behind its scores, those of the next
// step's keys and table rows behind the softmax and the product with the values.
//
// A batch of few items leaves most of a GPU idle. Where every item has a block of its own, two SHARES of its
// warps take half of the keys each, and the first adds what the second found. Else each share takes items of
// its own.
#pragma once

#include "bands.cuh"
#include "disentangled_attention.h"
#include "sums.cuh"

namespace disentangled {

// An item is queries of one head, from an entry of the work list or a part of one; the longest come first.
// Parts vary slowest: the second parts of short sequences are empty, and no block shall get only those.
template <int ROWS>
struct Item {
  int head, first, rows, first_key, length;

  DEVICE Item(const Arguments& arguments, int item) {
    const int whole = item % (arguments.tiles[0] * arguments.heads);
    const int* const tile = arguments.tiles + 4 * (1 + whole / arguments.heads);
    head = whole % arguments.heads;
    first = tile[0] + item / (arguments.tiles[0] * arguments.heads) * ROWS;
    rows = tile[1] - first;
    first_key = tile[2];
    length = tile[3] - first_key;
  }
};

// Returns which of the tables, all heads of one adapter after those of another, the rows from `first` on see.
// The first row tells: rows of a tile are of one prompt, so of one adapter.
DEVICE int table_of(const Arguments& arguments, int head, int first) {
  if (!arguments.slots) return head;
  const int slot = arguments.slots[first];
  return head + (slot < arguments.held ? 1 + slot : 0) * arguments.heads;
}

template <bool BF16, int ROWS, int SHARES, bool C2P, bool P2C>
KERNEL(SHARES* Layout<ROWS>::THREADS, Layout<ROWS>::RESIDENT / SHARES)
attend(Arguments arguments, float scale_log2) {
  using Shared = Layout<ROWS>;
  constexpr int TILES = Shared::TILES, RING = Shared::RING, KEYS = Shared::KEYS, LOADED = Shared::LOADED;
  constexpr int THREADS = Shared::THREADS, BAND = Shared::BAND;
  const int share = SHARES > 1 ? thread_index() / THREADS : 0, thread = thread_index() % THREADS;
  uint16_t* const memory = shared_memory() + share * Shared::SIZE;
  uint16_t *const k_rows = memory + Shared::K, *const v_rows = memory + Shared::V;
  uint16_t *const key_table = memory + Shared::KEY_TABLE, *const query_table = memory + Shared::QUERY_TABLE;
  uint16_t* const stage = memory + Shared::STAGE;
  float* const of_keys = reinterpret_cast<float*>(stage);  // A step without a band uses it.

  const int warp = thread / 32, lane = thread % 32;
  // An accumulator holds rows `group` and `group + 8`, columns 2 * `within` and the next, of its 16 x 8 tile.
  const int group = lane / 4, within = lane % 4;
  // What follows from what is forgotten is worked out again at every use: registers are short.
  const auto quad = [&] { return Quad{forgotten(group), forgotten(within)}; };
  // This lane names a row and a half of 16 columns to load_matrices, for an A operand and for a B operand.
  const int a_row = lane % 16, a_half = lane / 16;
  const int b_row = lane % 8 + 8 * (lane / 16), b_half = (lane / 8) % 2;
  const int a_first = swizzled(a_row, a_half), b_first = swizzled(b_row, b_half);
  const int copied_row = thread / CHUNKS, copied_chunk = thread % CHUNKS;

  const int heads = arguments.heads, reach = arguments.reach, token = 3 * heads * HEAD;
  const auto items = [&] { return arguments.tiles[0] * heads * arguments.parts; };
  const bool divided = SHARES > 1 && items() <= block_count();
  const int takers = divided ? block_count() : SHARES * block_count();
  for (int item = divided ? block_index() : SHARES * block_index() + share; item < items(); item += takers) {
    const Item<ROWS> load(arguments, item);
    if (load.rows <= 0) continue;
    const int first_key = load.first_key, length = load.length;
    const int half = ((length + KEYS - 1) / KEYS + 1) / 2 * KEYS;
    const int begin = divided ? share * half : 0, end = divided && !share ? min(half, length) : length;
    const uint16_t* const qkv = arguments.qkv + load.head * HEAD + copied_chunk * CHUNK;
    const size_t table =
        size_t(table_of(arguments, load.head, load.first)) * (2 * reach + 1) * HEAD + copied_chunk * CHUNK;
    const int farthest = load.first - first_key - (KEYS - 1);  // u = 0 is this distance where `key` is 0.

    const auto copy_rows = [&](uint16_t* to, int key, int part) {  // `part` is 1 for keys and 2 for values.
      const int first = forgotten(copied_row);
      for (int n = 0; n < KEYS / LOADED; n++) {
        const int row = first + n * LOADED;
        const bool valid = key + row < length;
        copy_async(to + swizzled(row, copied_chunk),
                   qkv + size_t(first_key + (valid ? key + row : 0)) * token + part * heads * HEAD, valid);
      }
    };
    const auto copy_keys = [&](int key, int fresh, int shift) {
      if (key < end) {
        copy_rows(k_rows, key, 1);
        for (int u = copied_row; u < fresh; u += LOADED) {
          const int distance = min(max(farthest - key + u, -reach), reach);
          const size_t from = table + size_t(distance + reach) * HEAD;
          const int slot = swizzled(u + shift < RING ? u + shift : u + shift - RING, copied_chunk);
          if (C2P) copy_async(key_table + slot, arguments.key_table + from, true);
          if (P2C) copy_async(query_table + slot, arguments.query_table + from, true);
        }
      }
      commit_copies();  // Where there is no such step, the group is empty.
    };

    // After the last barrier of the item before, its values are all that a warp may still read. They are
    // overwritten after the first barrier of a step.
    uint32_t q[TILES][4][4];
    if (begin < end) {
      for (int n = 0; n < ROWS / LOADED; n++) {
        const int row = copied_row + n * LOADED;
        const bool valid = row < load.rows;
        copy_async(stage + swizzled(row, copied_chunk), qkv + size_t(load.first + (valid ? row : 0)) * token,
                   valid);
      }
      commit_copies();
      copy_keys(begin, RING, 0);
      wait_for_copies<1>();
      share_sync(share, THREADS);
      for (int m = 0; m < TILES; m++)
        for (int k = 0; k < 4; k++)
          load_matrices(q[m][k], stage + (warp * TILES + m) * 16 * HEAD + Quarters(a_first)[k]);
    }

    Sums<TILES> sums;
    sums.clear();
    int shift = 0;
    for (int key = begin; key < end; key += KEYS) {
      const Quarters a_at(forgotten(a_first)), b_at(forgotten(b_first));
      wait_for_copies<0>();
      share_sync(share, THREADS);  // Keys and tables are there, and the step before is done with its values.
      copy_rows(v_rows, key, 2);
      commit_copies();

      const auto far = [&] {
        const int smallest = forgotten(farthest - key);
        return smallest >= reach || smallest + RING - 1 <= -reach;
      };
      const auto unit = [&](const uint16_t* rows, int u) {  // 16 rows never straddle the ring's end.
        return rows + (u + shift < RING ? u + shift : u + shift - RING) * HEAD;
      };

      if (P2C) {  // It takes 16 keys of this warp and all queries.
        uint32_t k[1][4][4];
        for (int d = 0; d < 4; d++) load_matrices(k[0][d], k_rows + warp * 16 * HEAD + a_at[d]);
        if (far()) {
          float same[4];
          product_of<BF16>(same, k[0], query_table, b_at);
          if (within == 0)
            for (int side = 0; side < 2; side++) of_keys[16 * warp + group + 8 * side] = same[2 * side];
        } else {
          multiply_keys<BF16, ROWS / 16 + 1, BAND>(
              stage + warp * 16 * BAND + MARGIN, k,
              [&](int t) { return unit(query_table, KEYS - 16 - 16 * warp + 16 * t); }, b_at, quad());
        }
        share_sync(share, THREADS);  // The second band is complete.
      }

      float scores[TILES][KEYS / 8][4];
      if (far()) {
        for (int m = 0; m < TILES; m++) {
          float same[4] = {};
          if (C2P) product_of<BF16>(same, q[m], key_table, b_at);
          for (int n = 0; n < KEYS / 8; n++)
            for (int e = 0; e < 4; e++)
              scores[m][n][e] = same[e] + (P2C ? of_keys[8 * n + 2 * within + e % 2] : 0);
        }
      } else {
        uint32_t by_query[TILES][KEYS / 8][2] = {};
        if (C2P)
          multiply_queries<BF16, TILES, KEYS>(
              by_query, q, [&](int t) { return unit(key_table, (warp * TILES + t) * 16); }, b_at, quad());
        for (int m = 0; m < TILES; m++)
          for (int n = 0; n < KEYS / 16; n++) {
            uint32_t by_key[4] = {0, 0, 0, 0};
            if (P2C)
              load_matrices_transposed(
                  by_key, stage + (16 * n + b_row) * BAND + MARGIN + ((warp * TILES + m) * 2 + b_half) * CHUNK);
            for (int x = 0; x < 4; x++) {
              const uint32_t sum = add_halves(by_query[m][2 * n + x / 2][x % 2], by_key[x]);
              scores[m][2 * n + x / 2][2 * (x % 2)] = low_half(sum) * (1 / STAGED);
              scores[m][2 * n + x / 2][2 * (x % 2) + 1] = high_half(sum) * (1 / STAGED);
            }
          }
      }
      for (int n = 0; n < KEYS / 16; n++)
        for (int d = 0; d < 4; d++) {
          uint32_t b[4];
          load_matrices(b, k_rows + 16 * n * HEAD + b_at[d]);
          for (int m = 0; m < TILES; m++) {
            multiply<BF16>(scores[m][2 * n], q[m][d], b[0], b[1]);
            multiply<BF16>(scores[m][2 * n + 1], q[m][d], b[2], b[3]);
          }
        }
      wait_for_copies<0>();
      share_sync(share, THREADS);  // Values are there, and all are done with keys, tables and the band.
      shift = shift + ROWS < RING ? shift + ROWS : shift + ROWS - RING;
      copy_keys(key + KEYS, KEYS, shift);

      if (length - key < KEYS)
        for (int m = 0; m < TILES; m++)
          for (int n = 0; n < KEYS / 8; n++)
            for (int e = 0; e < 4; e++)
              if (8 * n + 2 * within + e % 2 >= length - key) scores[m][n][e] = LOWEST;

      uint32_t weights[TILES][KEYS / 16][4];
      sums.template take<BF16, KEYS>(weights, scores, scale_log2);
      for (int d = 0; d < KEYS / 16; d++)
        for (int n = 0; n < HEAD / 16; n++) {
          uint32_t b[4];
          load_matrices_transposed(b, v_rows + 16 * d * HEAD + a_at[n]);
          for (int m = 0; m < TILES; m++) {
            multiply<BF16>(sums.out[m][2 * n], weights[m][d], b[0], b[1]);
            multiply<BF16>(sums.out[m][2 * n + 1], weights[m][d], b[2], b[3]);
          }
        }
    }

    if (divided) {  // A block then takes one item, so that nobody writes to this memory again.
      float* const handed = reinterpret_cast<float*>(shared_memory() + Shared::SIZE) + thread;
      block_sync();  // The second share is done with its memory, where it leaves its sums.
      if (share) sums.leave(handed, THREADS);
      block_sync();
      if (share) continue;
      sums.add(handed, THREADS, scale_log2);
    }

    const Item<ROWS> store(arguments, forgotten(item));
    for (int m = 0; m < TILES; m++)
      for (int side = 0; side < 2; side++) {
        float sum = sums.total[m][side];
        sum += exchange(sum, 1);
        sum += exchange(sum, 2);
        const float factor = sum > 0 ? 1 / sum : 0;  // Rows of padding see no key and become zeros.
        const int row = (warp * TILES + m) * 16 + group + 8 * side;
        if (row >= store.rows) continue;
        uint16_t* const to =
            arguments.out + (size_t(store.first + row) * heads + store.head) * HEAD + 2 * within;
        for (int n = 0; n < 8; n++)
          *reinterpret_cast<uint32_t*>(to + 8 * n) =
              pack<BF16>(sums.out[m][n][2 * side] * factor, sums.out[m][n][2 * side + 1] * factor);
      }
  }
}

}  // namespace disentangled
