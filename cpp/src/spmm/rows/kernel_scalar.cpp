// Portable kernels that decode rows and look at them.
#include <algorithm>
#include <array>

#include "spmm/rows/kernels.hpp"

namespace tersor::spmm::rows {
namespace {

std::size_t decode_entries(const std::uint8_t* gaps, const std::uint8_t* codes, std::size_t size,
                           std::uint32_t column, Entry* entries) noexcept {
    std::size_t at = 0;
    for (std::size_t i = 0; i < size; ++i) {
        column += gaps[i];
        entries[at] = column++ << 8 | codes[i];
        at += codes[i] != 0 ? 1U : 0U;
    }
    return at;
}

bool row_statistics(const std::uint8_t* gaps, const std::uint8_t* codes, std::size_t size,
                    std::uint32_t column, const RowRules& rules,
                    RowStatistics& statistics) noexcept {
    const std::uint32_t filler_gap = (1U << rules.index_bits) - 1;
    const std::uint32_t cols = rules.cols;
    std::size_t nonzeros = 0;
    std::size_t mark = 0;
    std::uint64_t advance = size;
    bool good = size == 0 || codes[size - 1] != 0;
    for (std::size_t i = 0; i < size; ++i) {
        column += gaps[i];
        advance += gaps[i];
        // A column before the row's first, of a filler, is a large number.
        for (;
             mark + 1 < RowStatistics::marks && column < cols && column >= mark_column(mark, cols);
             ++mark) {
            statistics.passed[mark] = static_cast<float>(nonzeros);
        }
        ++column;
        nonzeros += codes[i] != 0 ? 1U : 0U;
        good &= codes[i] != 0 ? gaps[i] <= filler_gap : gaps[i] == filler_gap;
        good &= codes[i] < rules.values;
    }
    for (; mark < RowStatistics::marks; ++mark)
        statistics.passed[mark] = static_cast<float>(nonzeros);
    return good && advance <= cols;
}

}  // namespace

void count_codes_by_table(const std::uint8_t* codes, std::size_t size, std::size_t values,
                          std::uint32_t* counts) noexcept {
    std::fill_n(counts, values, 0U);
    // Equal codes in a row wait for each other less in two tables.
    std::array<std::uint32_t, 256> odd{};
    std::size_t i = 0;
    for (; i + 2 <= size; i += 2) {
        ++counts[codes[i]];
        ++odd[codes[i + 1]];
    }
    if (i < size) ++counts[codes[i]];
    for (std::size_t c = 0; c < values; ++c) counts[c] += odd[c];
}

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept {
    kernels = {decode_entries, count_codes_by_table, row_statistics};
}

}  // namespace tersor::spmm::rows
