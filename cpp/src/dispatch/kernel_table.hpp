// Builds a topic's table of kernels: one column per instruction-set level, each of which starts as
// a copy of its parent's and replaces what it does better.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>

#include "tersor/isa.hpp"

namespace tersor::dispatch {

/// Overwrites what a level improves and leaves the rest inherited.
template <class Kernels>
struct Installer {
    Isa isa;
    void (*install)(Kernels&) noexcept;
};

/// `Kernels` is a struct of function pointers. A level may have several installers; they run in the
/// order of the list. Tables are made when the library is loaded: one that another thread is making
/// at a fork would never be finished in the child.
template <class Kernels>
class KernelTable {
public:
    KernelTable(std::initializer_list<Installer<Kernels>> installers) noexcept {
        constexpr std::array parents = {
#define TERSOR_ISA(name, parent, summary) Isa::parent,
#include "tersor/isa.def"
#undef TERSOR_ISA
        };
        for (std::size_t i = 0; i < isa_count; ++i) {
            columns_[i] = columns_[static_cast<std::size_t>(parents[i])];
            for (const Installer<Kernels>& installer : installers) {
                if (installer.isa == static_cast<Isa>(i)) installer.install(columns_[i]);
            }
        }
    }

    [[nodiscard]] const Kernels& operator[](Isa isa) const noexcept {
        return columns_[static_cast<std::size_t>(isa)];
    }

private:
    std::array<Kernels, isa_count> columns_{};
};

}  // namespace tersor::dispatch
