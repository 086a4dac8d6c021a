// An index of any bytes under hashes that are right, in a file whose header fits it, so that what
// stands behind the hashes is reached. The first byte says how many tensors stand beside the index.
#include <string>
#include <vector>

#include "check_file.hpp"
#include "container/index.hpp"
#include "guarded.hpp"
#include "support/little_endian.hpp"

namespace {

constexpr std::size_t outside_size = 8;
constexpr std::size_t max_outside = 3;
constexpr std::size_t sealed_bytes = 13;  // magic, version, hash of the header
constexpr std::size_t hash_bytes = 8;

std::string entry(const std::string& name, std::size_t begin, std::size_t end) {
    return '"' + name + "\":{\"dtype\":\"U8\",\"shape\":[" + std::to_string(end - begin) +
           "],\"data_offsets\":[" + std::to_string(begin) + ',' + std::to_string(end) + "]}";
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 1 + sealed_bytes) return 0;
    std::vector<std::uint8_t> index(data + 1, data + size);
    index.resize(index.size() + hash_bytes);
    std::string json = '{' + entry("tersor", 0, index.size());
    std::size_t end = index.size();
    for (std::size_t i = 0; i < data[0] % (max_outside + 1); ++i, end += outside_size) {
        json += ',' + entry("outside" + std::to_string(i), end, end + outside_size);
    }
    json += '}';
    std::vector<std::uint8_t> file;
    tersor::support::append_little_endian(std::uint64_t{json.size()}, file);
    file.insert(file.end(), json.begin(), json.end());
    tersor::container::seal_index(index, file);
    file.insert(file.end(), index.begin(), index.end());
    file.resize(file.size() + end - index.size());
    const tersor::test::GuardedBytes guarded(file);
    tersor::fuzz::check_file(guarded.bytes());
    return 0;
}
