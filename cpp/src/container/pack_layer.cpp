#include "tersor/pack_layer.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "container/parsed_layer.hpp"
#include "spmm/pack_entries.hpp"
#include "support/aligned_buffer.hpp"

namespace tersor {
namespace {

using namespace layer_parts;

std::vector<float> codebook_of(std::span<const float> values) {
    std::vector<float> codebook(values.size() + 1);
    std::copy(values.begin(), values.end(), codebook.begin() + 1);
    return codebook;
}

/// A stream that is decoded from front to back, whole blocks at a time, into memory that holds no
/// more than is asked for and a block.
class StreamWindow {
public:
    StreamWindow(std::span<const std::uint8_t> stream, const huffman::StreamInfo& info) noexcept
        : stream_(stream),
          size_(static_cast<std::size_t>(info.symbols)),
          block_(static_cast<std::size_t>(info.block_symbols)) {}

    bool read(std::size_t begin, std::size_t end, int threads,
              std::span<const std::uint8_t>& symbols) {
        if (end > end_) {
            drop_before(begin);
            const std::size_t blocks = (end - 1) / block_ + 1;
            const std::size_t wanted = blocks > size_ / block_ ? size_ : blocks * block_;
            if (wanted - begin_ > memory_.size()) memory_.resize(wanted - begin_ + block_slack());
            const std::span<std::uint8_t> to(memory_.data() + (end_ - begin_), wanted - end_);
            if (!huffman::decode_range(stream_, end_, to, {.threads = threads}).ok()) return false;
            end_ = wanted;
        }
        symbols = {memory_.data() + (begin - begin_), end - begin};
        return true;
    }

private:
    /// Keeps the place of each symbol in its cache line.
    void drop_before(std::size_t first) noexcept {
        const std::size_t begin = first / support::cache_line * support::cache_line;
        if (begin == begin_) return;
        std::memmove(memory_.data(), memory_.data() + (begin - begin_), end_ - begin);
        begin_ = begin;
    }

    /// The next time, up to a block more may be left over.
    [[nodiscard]] std::size_t block_slack() const noexcept {
        return std::min(block_, size_ - end_);
    }

    std::span<const std::uint8_t> stream_;
    std::size_t size_;
    std::size_t block_;
    support::AlignedBuffer<std::uint8_t> memory_;  // the symbols [begin_, end_)
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
};

class EntriesOfBlob final : public spmm::EntrySource {
public:
    explicit EntriesOfBlob(const ParsedLayer& parsed) noexcept
        : codes_(parsed.codes, parsed.code_info), gaps_(parsed.gaps, parsed.gap_info) {}

    bool read(std::size_t begin, std::size_t end, int threads, spmm::Entries& entries) override {
        return codes_.read(begin, end, threads, entries.codes) &&
               gaps_.read(begin, end, threads, entries.gaps);
    }

private:
    StreamWindow codes_;
    StreamWindow gaps_;
};

/// Whether decoding and packing stay within a limit.
bool fits(const ParsedLayer& parsed, std::uint64_t max_bytes) {
    const std::uint64_t decoded = decoded_bytes(parsed);
    return decoded <= max_bytes && packing_bytes(parsed) <= max_bytes - decoded;
}

/// Packs shared weights while their streams are decoded. False where that cannot be done, for
/// whatever reason.
bool pack_decoding(std::span<const std::uint8_t> blob, PackedMatrix& packed,
                   std::uint64_t max_bytes, int threads) {
    ParsedLayer parsed;
    if (!check_signature(blob).ok() || !parse_layer(blob, parsed).ok()) return false;
    if (parsed.entropy != Entropy::huffman) return false;  // its codes are not in the file
    if (!is_shared(parsed.kind) || !fits(parsed, max_bytes)) return false;
    if (!check_hash(blob).ok()) return false;
    std::vector<float> values;
    if (!read_values(parsed, blob, 0, parsed.value_count, values).ok()) return false;
    std::vector<float> rows, columns;
    if (!decode_factors(parsed.row_factors, parsed.matrix.rows, rows).ok() ||
        !decode_factors(parsed.column_factors, parsed.matrix.cols, columns).ok()) {
        return false;
    }
    std::vector<std::uint32_t> row_lengths;
    if (!parsed.flat && !decode_row_lengths(parsed, blob, row_lengths, threads).ok()) return false;
    EntriesOfBlob source(parsed);
    const auto entries = static_cast<std::size_t>(parsed.code_info.symbols);
    const spmm::CsrOutline outline{parsed.matrix.rows,
                                   parsed.matrix.cols,
                                   parsed.index_bits,
                                   parsed.flat,
                                   row_lengths,
                                   entries,
                                   entries - static_cast<std::size_t>(parsed.fillers)};
    if (!spmm::pack_entries(outline, source, codebook_of(values), packed,
                            layout_hint_of(parsed.shape), threads)) {
        return false;
    }
    packed.set_factors(rows, columns);
    return true;
}

}  // namespace

Result pack_layer(const Layer& layer, PackedMatrix& packed, int threads) {
    const Result result = is_shared(layer.kind)
                              ? spmm::pack(layer.csr, codebook_of(layer.values), packed,
                                           layout_hint_of(layer.shape), threads)
                              : spmm::pack_values(layer.csr, layer.values, packed);
    if (result.ok()) packed.set_factors(layer.row_factors, layer.column_factors);
    return result;
}

Result pack_layer(std::span<const std::uint8_t> blob, PackedMatrix& packed,
                  std::optional<std::size_t> max_bytes, int threads) {
    const std::uint64_t limit = max_bytes.value_or(default_max_bytes(blob.size()));
    if (pack_decoding(blob, packed, limit, threads)) return {Status::ok, packed.nonzeros()};
    // Weights that are not shared, or coded with contexts; or there is a fault, which decoding all
    // will find and name.
    Layer layer;
    const Result decoded = decode_layer(blob, layer, max_bytes, threads);
    if (!decoded.ok()) return decoded;
    ParsedLayer parsed;
    if (const Result again = parse_layer(blob, parsed); !again.ok()) return again;
    if (!fits(parsed, limit)) return {Status::too_large, offset_of(parsed.codes, blob)};
    return pack_layer(layer, packed, threads);
}

}  // namespace tersor
