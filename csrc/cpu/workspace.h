// The memory that kernels work in.
#pragma once

#include <cstddef>

// Returns memory of the calling thread that lasts until the thread ends, aligned to cache lines. A layer, which
// calls kernels, has its own.
float* workspace(size_t floats, bool of_layer = false);
