// Stands for torch's library: its pool, which fails when it is told to.
#include <cstdint>

extern "C" {

int fake_torch_failure = 0;  // what the pool returns instead of running anything
int fake_torch_calls = 0;

std::int32_t torch_parallel_for(std::int64_t begin, std::int64_t end, std::int64_t grain,
                                void (*function)(std::int64_t, std::int64_t, void*),
                                void* context) {
    ++fake_torch_calls;
    if (fake_torch_failure != 0) return fake_torch_failure;
    for (std::int64_t at = begin; at < end; at += grain) {
        function(at, at + grain < end ? at + grain : end, context);
    }
    return 0;
}

}  // extern "C"
