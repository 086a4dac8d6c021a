// What must hold for a file of any bytes.
#pragma once

#include <cstdint>
#include <span>

namespace tersor::fuzz {

/// Opens the file, verifies its tensors, decodes and packs its layers; aborts where a fault has a
/// position outside the bytes, or tensors cover more than the file.
void check_file(std::span<const std::uint8_t> bytes);

}  // namespace tersor::fuzz
