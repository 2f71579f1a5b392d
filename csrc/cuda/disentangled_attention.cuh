// Disentangled attention over packed sequences (He et al., arXiv:2006.03654, equation 4): heads are 64 wide and
// values have 16 bit.
//
//   score(i, j) = scale * (q_i . k_j + q_i . key_table[i - j] + k_j . query_table[i - j])
//
// A block takes ROWS queries of one head against steps of KEYS keys. Within a step only ROWS + KEYS - 1
// consecutive distances occur: they are u = r - c + KEYS - 1 for query r of the block and key c of the step.
//
//   q_r . key_table[u]    for 16 queries from r0 on needs u in [r0, r0 + KEYS + 14]; element (r, u) is for key
//                         c = r - u + KEYS - 1.
//   k_c . query_table[u]  for 16 keys from c0 on needs u in [KEYS - 16 - c0, KEYS + ROWS - 2 - c0]; element
//                         (c, u) is for query r = u + c - (KEYS - 1).
//
// Each is a GEMM on tensor cores (a band). It is written to shared memory where (r, c) belongs and read back
// from there as the start of the scores: the address alone un-skews it, and nothing is gathered. Elements
// outside the step land in margins beside it. A step further, every u is KEYS larger, so table rows stay where
// they are in a ring, with row u at (u + shift) % RING, and only KEYS new ones are loaded.
//
// Where every distance of a step is beyond the reach of the tables, all its table rows are the same one: the
// first term is the same for all keys, the second for all queries, and neither needs a band.
#pragma once

#include "disentangled_attention.h"
#include "primitives.cuh"

namespace disentangled {

constexpr int HEAD = 64;  // A head has so many values.
constexpr int CHUNK = 8;  // A 16 byte copy has so many values.
constexpr int CHUNKS = HEAD / CHUNK;
constexpr int MARGIN = 16;  // So many columns before a staged band take elements outside the step.
constexpr float LOWEST = -1e30f;
// Bands are staged in float16, at a sixteenth of their size: q . table may exceed float16's range.
constexpr float STAGED = 1.0f / 16;

// Blocks of 128 or 64 queries have four warps; blocks of 16 queries, for short sequences, have one.
template <int ROWS>
struct Layout {                                     // It divides shared memory, in 16 bit values.
  static constexpr int WARPS = ROWS == 16 ? 1 : 4;  // Each takes an equal part of the queries.
  static constexpr int KEYS = 16 * WARPS;           // Each warp takes 16 keys of a step for the second band.
  static constexpr int THREADS = 32 * WARPS;
  static constexpr int LOADED = THREADS / CHUNKS;  // All threads copy so many rows at a time.
  static constexpr int RESIDENT = ROWS == 128 ? 1 : ROWS == 64 ? 2 : 12;  // blocks per multiprocessor, at least
  static constexpr int TILES = ROWS / (16 * WARPS);                       // A warp has so many, of 16 queries.
  static constexpr int RING = ROWS + KEYS;
  // Row lengths of the staged bands are odd multiples of 16 bytes, so that reads have no bank conflicts.
  static constexpr int QUERY_BAND = MARGIN + KEYS + 24;
  static constexpr int KEY_BAND = MARGIN + ROWS + 24;
  static constexpr int K = 0;
  static constexpr int V = K + KEYS * HEAD;
  static constexpr int KEY_TABLE = V + KEYS * HEAD;
  static constexpr int QUERY_TABLE = KEY_TABLE + RING * HEAD;
  static constexpr int QUERY_STAGE = QUERY_TABLE + RING * HEAD;
  static constexpr int KEY_STAGE = QUERY_STAGE + WARPS * 16 * QUERY_BAND;
  static constexpr int SIZE = KEY_STAGE + KEYS * KEY_BAND;
  static constexpr int BYTES = SIZE * int(sizeof(uint16_t));
};

// Returns the place of a 16 byte chunk of 64 values; they are exchanged so that a column meets every bank.
DEVICE int swizzled(int row, int chunk) { return row * HEAD + ((chunk ^ (row & 7)) * CHUNK); }

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

// Writes two neighbours of a band row; they may straddle a 4 byte boundary.
DEVICE void store_pair(uint16_t* to, int step, uint32_t pair) {
  to[0] = uint16_t(pair);
  to[step] = uint16_t(pair >> 16);
}

// acc[0..1] = a [16, 64] times 16 table rows.
template <bool BF16>
DEVICE void band_of(float (&acc)[2][4], const uint32_t (&a)[4][4], const uint16_t* table,
                    const int (&b_at)[4]) {
  for (int n = 0; n < 2; n++)
    for (int e = 0; e < 4; e++) acc[n][e] = 0;
  for (int k = 0; k < 4; k++) {
    uint32_t b[4];
    load_matrices(b, table + b_at[k]);
    multiply<BF16>(acc[0], a[k], b[0], b[1]);
    multiply<BF16>(acc[1], a[k], b[2], b[3]);
  }
}

// acc[0] and acc[2] = rows `group` and `group + 8` of a [16, 64] times a table row that is there eight times.
template <bool BF16>
DEVICE void product_of(float (&acc)[4], const uint32_t (&a)[4][4], const uint16_t* table,
                       const int (&b_at)[4]) {
  for (int e = 0; e < 4; e++) acc[e] = 0;
  for (int k = 0; k < 4; k++) {
    uint32_t b[4];
    load_matrices(b, table + b_at[k]);
    multiply<BF16>(acc, a[k], b[0], b[1]);
  }
}

template <bool BF16, int ROWS, bool C2P, bool P2C>
KERNEL(Layout<ROWS>::THREADS, Layout<ROWS>::RESIDENT)
attend(Arguments arguments, float scale_log2) {
  using Shared = Layout<ROWS>;
  constexpr int TILES = Shared::TILES, RING = Shared::RING, KEYS = Shared::KEYS, LOADED = Shared::LOADED;
  uint16_t* const memory = shared_memory();
  uint16_t *const k_rows = memory + Shared::K, *const v_rows = memory + Shared::V;
  uint16_t *const key_table = memory + Shared::KEY_TABLE, *const query_table = memory + Shared::QUERY_TABLE;
  uint16_t* const key_stage = memory + Shared::KEY_STAGE;
  float* const of_keys = reinterpret_cast<float*>(key_stage);  // A step without a band uses it.

  const int thread = thread_index(), warp = thread / 32, lane = thread % 32;
  // An accumulator holds rows `group` and `group + 8`, columns 2 * `within` and the next, of its 16 x 8 tile.
  const int group = lane / 4, within = lane % 4;
  // This lane names a row and a half of 16 columns to load_matrices, for an A operand and for a B operand;
  // `a_at` and `b_at` say where that is in 16 swizzled rows for each quarter of their width.
  const int a_row = lane % 16, a_half = lane / 16;
  const int b_row = lane % 8 + 8 * (lane / 16), b_half = (lane / 8) % 2;
  int a_at[4], b_at[4];
  for (int quarter = 0; quarter < 4; quarter++) {
    a_at[quarter] = swizzled(a_row, 2 * quarter + a_half);
    b_at[quarter] = swizzled(b_row, 2 * quarter + b_half);
  }
  const int copied_row = thread / CHUNKS, copied_chunk = thread % CHUNKS;

  uint16_t* const query_stage = memory + Shared::QUERY_STAGE + warp * 16 * Shared::QUERY_BAND;
  // (r, u) of the first band goes to row r, column r - u + KEYS - 1; (c, u) of the second goes to row c, column
  // u + c - (KEYS - 1), where u counts from the first distance of the band.
  uint16_t* const query_band = query_stage + group * (Shared::QUERY_BAND + 1) + MARGIN + KEYS - 1 - 2 * within;
  uint16_t* const key_band =
      key_stage + warp * 16 * Shared::KEY_BAND + group * (Shared::KEY_BAND + 1) + MARGIN - 15 + 2 * within;

  const int heads = arguments.heads, reach = arguments.reach, token = 3 * heads * HEAD;
  for (int item = block_index(); item < arguments.tiles[0] * arguments.heads * arguments.parts;
       item += block_count()) {
    const Item<ROWS> load(arguments, item);
    if (load.rows <= 0) continue;
    const int first_key = load.first_key, length = load.length;
    const uint16_t* const qkv = arguments.qkv + load.head * HEAD + copied_chunk * CHUNK;
    const size_t table =
        size_t(table_of(arguments, load.head, load.first)) * (2 * reach + 1) * HEAD + copied_chunk * CHUNK;
    const int farthest = load.first - first_key - (KEYS - 1);  // u = 0 is this distance in the first step.

    block_sync();  // The previous item is done with shared memory.
    uint16_t* const q_rows = key_table;
    for (int n = 0; n < ROWS / LOADED; n++) {
      const int row = copied_row + n * LOADED;
      const bool valid = row < load.rows;
      copy_async(q_rows + swizzled(row, copied_chunk), qkv + size_t(load.first + (valid ? row : 0)) * token,
                 valid);
    }
    wait_for_copies();
    block_sync();
    uint32_t q[TILES][4][4];
    for (int m = 0; m < TILES; m++)
      for (int k = 0; k < 4; k++) load_matrices(q[m][k], q_rows + (warp * TILES + m) * 16 * HEAD + a_at[k]);

    float out[TILES][8][4], highest[TILES][2], total[TILES][2];
    for (int m = 0; m < TILES; m++) {
      for (int n = 0; n < 8; n++)
        for (int e = 0; e < 4; e++) out[m][n][e] = 0;
      highest[m][0] = highest[m][1] = LOWEST;
      total[m][0] = total[m][1] = 0;
    }

    int shift = 0;
    for (int key = 0; key < length; key += KEYS) {
      block_sync();  // The step before (or the load of q) is done with what is overwritten.
      for (int n = 0; n < KEYS / LOADED; n++) {
        const int row = copied_row + n * LOADED;
        const bool valid = key + row < length;
        const uint16_t* const from = qkv + size_t(first_key + (valid ? key + row : 0)) * token;
        copy_async(k_rows + swizzled(row, copied_chunk), from + heads * HEAD, valid);
        copy_async(v_rows + swizzled(row, copied_chunk), from + 2 * heads * HEAD, valid);
      }
      if (key) shift = shift + ROWS < RING ? shift + ROWS : shift + ROWS - RING;
      const int fresh = key ? KEYS : RING;
      for (int u = copied_row; u < fresh; u += LOADED) {
        const int distance = min(max(farthest - key + u, -reach), reach);
        const size_t from = table + size_t(distance + reach) * HEAD;
        const int slot = swizzled(u + shift < RING ? u + shift : u + shift - RING, copied_chunk);
        if (C2P) copy_async(key_table + slot, arguments.key_table + from, true);
        if (P2C) copy_async(query_table + slot, arguments.query_table + from, true);
      }
      wait_for_copies();
      block_sync();

      const auto far = [&] {  // It is worked out again at every use: registers are short.
        const int smallest = forgotten(farthest - key);
        return smallest >= reach || smallest + RING - 1 <= -reach;
      };

      if (P2C) {  // It takes 16 keys of this warp and all queries.
        uint32_t k[4][4];
        for (int d = 0; d < 4; d++) load_matrices(k[d], k_rows + warp * 16 * HEAD + a_at[d]);
        if (far()) {
          float same[4];
          product_of<BF16>(same, k, query_table, b_at);
          if (within == 0)
            for (int side = 0; side < 2; side++) of_keys[16 * warp + group + 8 * side] = same[2 * side];
        } else {
          for (int n = 0; n < ROWS / 16 + 1; n++) {
            float band[2][4];
            const int u = KEYS - 16 - 16 * warp + 16 * n + shift;  // 16 rows never straddle the ring's end.
            band_of<BF16>(band, k, query_table + (u < RING ? u : u - RING) * HEAD, b_at);
            for (int x = 0; x < 2; x++) {
              uint16_t* const to = key_band + 16 * n + 8 * x;
              store_pair(to, 1, pack_half(band[x][0] * STAGED, band[x][1] * STAGED));
              store_pair(to + 8 * (Shared::KEY_BAND + 1), 1,
                         pack_half(band[x][2] * STAGED, band[x][3] * STAGED));
            }
          }
        }
      }
      block_sync();  // The second band is complete.

      float scores[TILES][KEYS / 8][4];
#pragma unroll  // The loop is too long for the compiler to do it unasked, and registers cannot be indexed.
      for (int m = 0; m < TILES; m++) {
        if (far()) {
          float same[4] = {};
          if (C2P) product_of<BF16>(same, q[m], key_table, b_at);
          for (int n = 0; n < KEYS / 8; n++)
            for (int e = 0; e < 4; e++)
              scores[m][n][e] = same[e] + (P2C ? of_keys[8 * n + 2 * within + e % 2] : 0);
          continue;
        }
        if (C2P) {  // It takes 16 queries of this warp and all keys.
          for (int n = 0; n < KEYS / 16 + 1; n++) {
            float band[2][4];
            const int u = (warp * TILES + m) * 16 + 16 * n + shift;
            band_of<BF16>(band, q[m], key_table + (u < RING ? u : u - RING) * HEAD, b_at);
            for (int x = 0; x < 2; x++) {
              uint16_t* const to = query_band - 16 * n - 8 * x;
              store_pair(to, -1, pack_half(band[x][0] * STAGED, band[x][1] * STAGED));
              store_pair(to + 8 * (Shared::QUERY_BAND + 1), -1,
                         pack_half(band[x][2] * STAGED, band[x][3] * STAGED));
            }
          }
          warp_sync();
        }
        for (int n = 0; n < KEYS / 16; n++) {
          uint32_t by_query[4] = {0, 0, 0, 0}, by_key[4] = {0, 0, 0, 0};
          if (C2P)
            load_matrices(by_query,
                          query_stage + a_row * Shared::QUERY_BAND + MARGIN + (2 * n + a_half) * CHUNK);
          if (P2C)
            load_matrices_transposed(by_key, key_stage + (16 * n + b_row) * Shared::KEY_BAND + MARGIN +
                                                 ((warp * TILES + m) * 2 + b_half) * CHUNK);
          for (int x = 0; x < 4; x++) {
            const uint32_t sum = add_halves(by_query[x], by_key[x]);
            scores[m][2 * n + x / 2][2 * (x % 2)] = low_half(sum) * (1 / STAGED);
            scores[m][2 * n + x / 2][2 * (x % 2) + 1] = high_half(sum) * (1 / STAGED);
          }
        }
        if (C2P) warp_sync();
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
      if (length - key < KEYS)
        for (int m = 0; m < TILES; m++)
          for (int n = 0; n < KEYS / 8; n++)
            for (int e = 0; e < 4; e++)
              if (8 * n + 2 * within + e % 2 >= length - key) scores[m][n][e] = LOWEST;

      uint32_t weights[TILES][KEYS / 16][4];
      for (int m = 0; m < TILES; m++)
        for (int side = 0; side < 2; side++) {  // An accumulator has two rows.
          float top = highest[m][side];
          for (int n = 0; n < KEYS / 8; n++)
            top = fmaxf(top, fmaxf(scores[m][n][2 * side], scores[m][n][2 * side + 1]));
          top = fmaxf(top, exchange(top, 1));
          top = fmaxf(top, exchange(top, 2));
          const float fade = power_of_two((highest[m][side] - top) * scale_log2);
          highest[m][side] = top;
          float sum = total[m][side] * fade;
          for (int n = 0; n < KEYS / 8; n++) {
            const float low = power_of_two((scores[m][n][2 * side] - top) * scale_log2);
            const float high = power_of_two((scores[m][n][2 * side + 1] - top) * scale_log2);
            sum += low + high;
            weights[m][n / 2][2 * (n % 2) + side] = pack<BF16>(low, high);
          }
          for (int n = 0; n < HEAD / 8; n++) {
            out[m][n][2 * side] *= fade;
            out[m][n][2 * side + 1] *= fade;
          }
          total[m][side] = sum;
        }
      for (int d = 0; d < KEYS / 16; d++)
        for (int n = 0; n < HEAD / 16; n++) {
          uint32_t b[4];
          load_matrices_transposed(b, v_rows + 16 * d * HEAD + a_at[n]);
          for (int m = 0; m < TILES; m++) {
            multiply<BF16>(out[m][2 * n], weights[m][d], b[0], b[1]);
            multiply<BF16>(out[m][2 * n + 1], weights[m][d], b[2], b[3]);
          }
        }
    }

    const Item<ROWS> store(arguments, forgotten(item));  // It is worked out again: registers are short.
    for (int m = 0; m < TILES; m++)
      for (int side = 0; side < 2; side++) {
        float sum = total[m][side];
        sum += exchange(sum, 1);
        sum += exchange(sum, 2);
        const float factor = sum > 0 ? 1 / sum : 0;  // Rows of padding see no key and become zeros.
        const int row = (warp * TILES + m) * 16 + group + 8 * side;
        if (row >= store.rows) continue;
        uint16_t* const to =
            arguments.out + (size_t(store.first + row) * heads + store.head) * HEAD + 2 * within;
        for (int n = 0; n < 8; n++)
          *reinterpret_cast<uint32_t*>(to + 8 * n) =
              pack<BF16>(out[m][n][2 * side] * factor, out[m][n][2 * side + 1] * factor);
      }
  }
}

}  // namespace disentangled
