// Builds a topic's table of kernels: one column per instruction-set level, each of which starts as
// a copy of its parent's and replaces what it does better.
#pragma once

#include <array>
#include <cstddef>

#include "tersor/isa.hpp"

namespace tersor::dispatch {

/// `Kernels` is a struct of function pointers; `install(isa, kernels)` overwrites what the level
/// improves and leaves the rest inherited.
template <class Kernels>
class KernelTable {
public:
    template <class Install>
    explicit KernelTable(const Install& install) {
        constexpr std::array parents = {
#define TERSOR_ISA(name, parent, summary) Isa::parent,
#include "tersor/isa.def"
#undef TERSOR_ISA
        };
        for (std::size_t i = 0; i < isa_count; ++i) {
            columns_[i] = columns_[static_cast<std::size_t>(parents[i])];
            install(static_cast<Isa>(i), columns_[i]);
        }
    }

    [[nodiscard]] const Kernels& operator[](Isa isa) const noexcept {
        return columns_[static_cast<std::size_t>(isa)];
    }

private:
    std::array<Kernels, isa_count> columns_{};
};

}  // namespace tersor::dispatch
