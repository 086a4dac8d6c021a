// What a matrix is packed from: entries that lie in memory, or are decoded as they are needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tersor/csr.hpp"

namespace tersor::spmm {

/// A RelativeCsr but for its entries.
struct CsrOutline {
    std::uint32_t rows = 0;
    std::uint32_t cols = 0;
    int index_bits = 0;
    bool flat = false;
    std::span<const std::uint32_t> row_lengths;
    std::size_t entries = 0;
    std::size_t nonzeros = 0;
};

/// Codes and gaps of consecutive entries.
struct Entries {
    std::span<const std::uint8_t> codes;
    std::span<const std::uint8_t> gaps;
};

class EntrySource {
public:
    virtual ~EntrySource() = default;

    /// The entries [begin, end), both at least what they were the last time; they stay until the
    /// next call. False where they cannot be had.
    virtual bool read(std::size_t begin, std::size_t end, int threads, Entries& entries) = 0;
};

}  // namespace tersor::spmm
