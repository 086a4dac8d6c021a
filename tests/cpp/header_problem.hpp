// Headers of safetensors files, written by hand.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "support/little_endian.hpp"

namespace tersor::test {

using Bytes = std::vector<std::uint8_t>;

inline Bytes file_of(const std::string& header, std::size_t data_bytes = 0) {
    Bytes bytes;
    support::append_little_endian(std::uint64_t{header.size()}, bytes);
    bytes.insert(bytes.end(), header.begin(), header.end());
    bytes.resize(bytes.size() + data_bytes);
    return bytes;
}

inline std::string entry(const std::string& shape, const std::string& offsets,
                         const std::string& dtype = "U8") {
    return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
           "}";
}

inline std::string nested(std::size_t levels) {
    return std::string(levels, '[') + "1" + std::string(levels, ']');
}

}  // namespace tersor::test
