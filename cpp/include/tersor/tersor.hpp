// The whole public C++ API.
#pragma once

#include "tersor/container.hpp"
#include "tersor/conv.hpp"
#include "tersor/csr.hpp"
#include "tersor/epilogue.hpp"
#include "tersor/huffman.hpp"
#include "tersor/isa.hpp"
#include "tersor/kmeans.hpp"
#include "tersor/layer.hpp"
#include "tersor/lossless.hpp"
#include "tersor/pack_layer.hpp"
#include "tersor/parallel.hpp"
#include "tersor/recurrent.hpp"
#include "tersor/rows.hpp"
#include "tersor/spmm.hpp"
#include "tersor/status.hpp"
#include "tersor/version.hpp"
