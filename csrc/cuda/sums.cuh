// The sums of a softmax whose keys come step by step (Milakov and Gimelshein, arXiv:1805.02867): what a warp
// knows of TILES times 16 queries. They are relative to the highest score so far, and fade where a higher one
// comes.
#pragma once

#include "layout.cuh"

namespace disentangled {

constexpr float LOWEST = -1e30f;

// Of an accumulator's two rows, or sides, this lane has its own columns; `total` is of these alone.
template <int TILES>
struct Sums {
  float out[TILES][HEAD / 8][4], highest[TILES][2], total[TILES][2];

  DEVICE void clear() {
    for (int m = 0; m < TILES; m++) {
      for (int n = 0; n < HEAD / 8; n++)
        for (int e = 0; e < 4; e++) out[m][n][e] = 0;
      highest[m][0] = highest[m][1] = LOWEST;
      total[m][0] = total[m][1] = 0;
    }
  }

  // Takes the scores of a step; the values' share of `out` is still to be added, with these weights.
  template <bool BF16, int KEYS>
  DEVICE void take(uint32_t (&weights)[TILES][KEYS / 16][4], const float (&scores)[TILES][KEYS / 8][4],
                   float scale_log2) {
    for (int m = 0; m < TILES; m++)
      for (int side = 0; side < 2; side++) {
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
  }

  // Leaves the sums in shared memory for the same thread of another share, which adds them to its own.
  DEVICE void leave(float* to, int stride) const {
    for (int m = 0; m < TILES; m++)
      for (int side = 0; side < 2; side++) {
        *to = highest[m][side], to += stride;
        *to = total[m][side], to += stride;
        for (int n = 0; n < HEAD / 8; n++)
          for (int e = 2 * side; e < 2 * side + 2; e++) *to = out[m][n][e], to += stride;
      }
  }

  DEVICE void add(const float* from, int stride, float scale_log2) {
    const auto next = [&] {
      const float value = *from;
      from += stride;
      return value;
    };
    for (int m = 0; m < TILES; m++)
      for (int side = 0; side < 2; side++) {
        const float theirs = next(), top = fmaxf(highest[m][side], theirs);
        const float fade = power_of_two((highest[m][side] - top) * scale_log2);
        const float their_fade = power_of_two((theirs - top) * scale_log2);
        total[m][side] = total[m][side] * fade + next() * their_fade;
        for (int n = 0; n < HEAD / 8; n++)
          for (int e = 2 * side; e < 2 * side + 2; e++)
            out[m][n][e] = out[m][n][e] * fade + next() * their_fade;
      }
  }
};

}  // namespace disentangled
