// Instruction-set levels: what was compiled, what this machine has, what is in use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace tersor {

enum class Isa : std::uint8_t {
#define TERSOR_ISA(name, parent, summary) name,
#include "tersor/isa.def"
#undef TERSOR_ISA
};

inline constexpr std::size_t isa_count = 0
#define TERSOR_ISA(name, parent, summary) +1
#include "tersor/isa.def"
#undef TERSOR_ISA
    ;

[[nodiscard]] std::string_view name(Isa isa) noexcept;
[[nodiscard]] std::optional<Isa> isa_from_name(std::string_view name) noexcept;

/// Levels that this build has kernels for, the portable one first.
[[nodiscard]] std::span<const Isa> compiled_isas() noexcept;

/// Whether this build, this processor and this operating system can run the level.
[[nodiscard]] bool available(Isa isa) noexcept;

/// The level in use: the best available one, unless the environment variable TERSOR_ISA or
/// `use_isa` named another. Throws std::invalid_argument when TERSOR_ISA names an unknown level or
/// one that this machine does not have; so do all functions that work on a level, until `use_isa`
/// has chosen one.
[[nodiscard]] Isa isa_in_use();

/// Selects a level for every later call of the process; what is already packed keeps its own.
/// Throws std::invalid_argument when the level is not available.
void use_isa(Isa isa);

}  // namespace tersor
