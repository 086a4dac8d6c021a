// A process whose TERSOR_ISA names no level: whatever it begins with says so, and nothing ends it.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "spmm_problem.hpp"
#include "tersor/c_api.h"
#include "tersor/container.hpp"
#include "tersor/huffman.hpp"
#include "tersor/isa.hpp"
#include "tersor/pack_layer.hpp"

namespace tersor {
namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr const char* wrong = "avx1024";

std::string path_of(const char* name) {
    return (std::filesystem::path(::testing::TempDir()) /
            ("tersor_wrong_level_" + std::to_string(getpid()) + name))
        .string();
}

Bytes bytes_of(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

void write(const std::string& path, const Bytes& bytes) {
    std::ofstream stream(path, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(bytes.data()),
                 static_cast<std::streamsize>(bytes.size()));
}

/// Makes what the tests read, in a process that has a level, and takes this one's.
class Inputs : public ::testing::Environment {
public:
    void SetUp() override {
        const std::string file = path_of("file"), blob = path_of("blob"),
                          stream = path_of("stream");
        const pid_t child = fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            const test::Problem p = test::make_problem(40, 300, 0.2, 15, 1);
            const Bytes encoded = encode_layer({{p.rows, p.cols},
                                                ValueKind::shared_fp32,
                                                p.csr,
                                                {p.codebook.begin() + 1, p.codebook.end()}});
            write(blob, encoded);
            write(stream, huffman::encode(Bytes(20'000, 3)));
            const std::vector<TensorToWrite> tensors = {
                {"fc.weight_blob", "U8", {encoded.size()}, encoded}};
            write_file(file, tensors);
            _exit(0);
        }
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        setenv("TERSOR_ISA", wrong, 1);
    }
    void TearDown() override {
        for (const char* name : {"file", "blob", "stream", "written"}) {
            std::filesystem::remove(path_of(name));
        }
    }
};

[[maybe_unused]] const auto* const inputs = ::testing::AddGlobalTestEnvironment(new Inputs);

struct Entry {
    const char* name;
    std::function<void()> call;
};

std::vector<Entry> entries() {
    static const Bytes blob = bytes_of(path_of("blob"));
    static const Bytes file = bytes_of(path_of("file"));
    static const Bytes symbols(20'000, 3);
    static const RelativeCsr csr{1, 4, 2, false, {1}, {0}, {1}};
    static const std::vector<float> codebook = {0.0F, 1.0F};
    const auto good = [](Result result) { EXPECT_TRUE(result.ok()); };
    return {
        {"isa_in_use", [] { static_cast<void>(isa_in_use()); }},
        {"csr::encode", [] { static_cast<void>(csr::encode(symbols, 100, 200, 4)); }},
        {"csr::validate", [=] { good(csr::validate(csr)); }},
        {"huffman::histogram", [] { static_cast<void>(huffman::histogram(symbols)); }},
        {"huffman::encode", [] { static_cast<void>(huffman::encode(symbols)); }},
        {"spmm::pack",
         [=] {
             PackedMatrix packed;
             good(spmm::pack(csr, codebook, packed));
         }},
        {"spmm::pack_values",
         [=] {
             PackedMatrix packed;
             good(spmm::pack_values(csr, std::span(codebook).subspan(1), packed));
         }},
        {"spmm::layout_hint_for", [] { static_cast<void>(spmm::layout_hint_for(csr, 2, {})); }},
        {"encode_layer",
         [] { static_cast<void>(encode_layer({{1, 4}, ValueKind::shared_fp32, csr, {1.0F}})); }},
        {"decode_layer",
         [=] {
             Layer layer;
             good(decode_layer(blob, layer));
         }},
        {"decode_rows",
         [=] {
             Layer layer;
             good(decode_rows(blob, 3, 4, layer));
         }},
        {"inspect_layer",
         [=] {
             LayerInfo info;
             good(inspect_layer(blob, info, true));
         }},
        {"pack_layer",
         [=] {
             PackedMatrix packed;
             good(pack_layer(blob, packed));
         }},
        {"write_file",
         [] {
             const std::vector<TensorToWrite> tensors = {{"t", "U8", {symbols.size()}, symbols}};
             write_file(path_of("written"), tensors);
         }},
        {"File::open",
         [=] {
             File opened;
             good(File::open(path_of("file"), opened));
             good(opened.verify());
         }},
        {"File::parse",
         [=] {
             File parsed;
             good(File::parse(file, parsed));
         }},
    };
}

TEST(WrongLevel, IsToldByWhateverIsCalledFirst) {
    for (const Entry& entry : entries()) {
        try {
            entry.call();
            ADD_FAILURE() << entry.name << " threw nothing";
        } catch (const std::invalid_argument& error) {
            EXPECT_NE(std::string(error.what()).find(wrong), std::string::npos)
                << entry.name << ": " << error.what();
        }
    }
    tersor_file* file = nullptr;
    EXPECT_EQ(tersor_open(path_of("file").c_str(), &file), TERSOR_BAD_ARGUMENT);
    EXPECT_NE(std::string(tersor_last_error()).find(wrong), std::string::npos);
    EXPECT_EQ(file, nullptr);
    // Once a level is chosen, everything works.
    use_isa(Isa::scalar);
    for (const Entry& entry : entries()) EXPECT_NO_THROW(entry.call()) << entry.name;
    EXPECT_EQ(tersor_open(path_of("file").c_str(), &file), TERSOR_OK);
    tersor_close(file);
}

}  // namespace
}  // namespace tersor
