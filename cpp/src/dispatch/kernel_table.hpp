// Builds a topic's table of kernels: one column per instruction-set level, each of which starts as
// a copy of its parent's and replaces what it does better.
#pragma once

#include <array>
#include <cstddef>
#include <type_traits>

#include "dispatch/architecture.hpp"
#include "dispatch/cpu_features.hpp"
#include "tersor/isa.hpp"

namespace tersor::dispatch {

/// A level as a type, which an overload of `install` is chosen by.
template <Isa isa>
using Level = std::integral_constant<Isa, isa>;

/// Whether this build has files that are compiled for a level.
[[nodiscard]] constexpr bool is_built(Isa isa) noexcept {
    switch (isa) {
        case Isa::scalar: return true;
        case Isa::avx2: return TERSOR_X86 != 0;
        case Isa::avx512: return TERSOR_AVX512 != 0;
        case Isa::amx: return TERSOR_AMX != 0;
        case Isa::neon: return TERSOR_ARM64 != 0;
    }
    return false;
}

/// `Kernels` is a struct of function pointers. Each of `levels` has a function
/// `install(Level<isa>, Kernels&)` in the namespace of the struct, which overwrites what the level
/// improves and leaves the rest inherited; levels that are not built need none. It is compiled for
/// its level, so it runs only where the machine has that; elsewhere the column stays its parent's.
/// Tables are made when the library is loaded: one that another thread is making at a fork would
/// never be finished in the child.
template <class Kernels, Isa... levels>
class KernelTable {
public:
    /// The kernels of a level.
    [[nodiscard]] static const Kernels& at(Isa isa) noexcept {
        static const KernelTable table;
        static_cast<void>(made_at_load);
        return table.columns_[static_cast<std::size_t>(isa)];
    }

private:
    inline static const bool made_at_load = (static_cast<void>(at(Isa::scalar)), true);

    KernelTable() noexcept {
        constexpr std::array parents = {
#define TERSOR_ISA(name, parent, summary) Isa::parent,
#include "tersor/isa.def"
#undef TERSOR_ISA
        };
        for (std::size_t i = 0; i < isa_count; ++i) {
            columns_[i] = columns_[static_cast<std::size_t>(parents[i])];
            (improve<levels>(static_cast<Isa>(i)), ...);
        }
    }

    template <Isa level>
    void improve(Isa isa) noexcept {
        if constexpr (is_built(level)) {
            if (isa == level && machine_has(level)) {
                install(Level<level>{}, columns_[static_cast<std::size_t>(isa)]);
            }
        }
    }

    std::array<Kernels, isa_count> columns_{};
};

}  // namespace tersor::dispatch
