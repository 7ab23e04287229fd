// All kernels, compiled for the emulator.
#define CUDA_EMULATED 1
#include "../hopper.cuh"
#include "../matvec.cuh"
namespace quantised {
#include "../quantised.cu"
#define EMULATED(L) \
  INSTANCES(L) EMULATE(embed_##L) EMULATE(matvec1_##L) EMULATE(experts_##L) EMULATE(batch8_##L) EMULATE(batch16_##L) EMULATE(batch32_##L) \
  EMULATE(direct1_##L) EMULATE(direct8_##L) EMULATE(direct_experts_##L) EMULATE(gemm_##L) EMULATE(gemm128_##L) EMULATE(gemm256_##L)
EMULATED(7) EMULATED(8) EMULATED(9)
#ifndef EMULATE_FEW // those with a planted mistake are tried on K-quants only
EMULATED(0) EMULATED(1) EMULATED(2) EMULATED(3) EMULATED(4) EMULATED(5) EMULATED(6) EMULATED(10) EMULATED(11) EMULATED(12)
EMULATED(13) EMULATED(14) EMULATED(15) EMULATED(16) EMULATED(17) EMULATED(18) EMULATED(19) EMULATED(20)
#endif
} // namespace quantised
namespace floats {
#include "../floats.cu"
EMULATE(float_matvec) EMULATE(float_experts) EMULATE(float_embed) EMULATE(float_gemm) EMULATE(float_gemm128) EMULATE(float_gemm256)
} // namespace floats
namespace rows {
#include "../rows.cu"
EMULATE(norm_rows) EMULATE(round_rows) EMULATE(add_norm) EMULATE(norm_heads) EMULATE(rope_table) EMULATE(rope_rows) EMULATE(activate)
EMULATE(add_rows) EMULATE(add_bias) EMULATE(add_positions) EMULATE(gather_rows) EMULATE(softcap) EMULATE(route) EMULATE(gate_rows)
EMULATE(mix) EMULATE(group_rows) EMULATE(short_conv) EMULATE(rearrange) EMULATE(gate_columns) EMULATE(rearrange_to_rows)
} // namespace rows
namespace tokens {
#include "../draw.cu"
EMULATE(draw)
} // namespace tokens
namespace attention {
#include "../attention.cu"
EMULATE(kv_write) EMULATE(qkv_finish) EMULATE(attend_partition_2) EMULATE(attend_partition_4) EMULATE(attend_latent) EMULATE(attend_merge)
EMULATE(attend_prompt_64) EMULATE(attend_biased_64) EMULATE(attend_prompt_128) EMULATE(attend_prompt_256)
} // namespace attention
namespace delta {
#include "../delta.cu"
EMULATE(delta_convolve) EMULATE(delta_rule_128) EMULATE(delta_rule_256) EMULATE(delta_gate)
} // namespace delta
namespace peak {
#include "../peak.cu"
EMULATE(peak_read) EMULATE(peak_int8) EMULATE(peak_bf16)
} // namespace peak
