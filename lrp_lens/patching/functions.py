"""The functions of transformer_lens.patching by name, and the twins of each, and nothing else.

`get_act_patch_*` patch activations, `get_attribution_patch_*` and `get_lrp_patch_*` estimate what that would do.
"""

from functools import partial as _partial

from lrp_lens.patching.sweeps import Sweep as _Sweep
from lrp_lens.patching.twins import Twin as _Twin
from lrp_lens.rules import GRADIENT as _GRADIENT
from lrp_lens.rules import RELP as _RELP

_attribution = _partial(_Twin, prefix="get_attribution_patch_", default=_GRADIENT)
_lrp = _partial(_Twin, prefix="get_lrp_patch_", default=_RELP)

get_act_patch_resid_pre = _Sweep("resid_pre")
get_act_patch_resid_mid = _Sweep("resid_mid")
get_act_patch_attn_out = _Sweep("attn_out")
get_act_patch_mlp_out = _Sweep("mlp_out")
get_act_patch_attn_head_out_by_pos = _Sweep("attn_head_out_by_pos")
get_act_patch_attn_head_q_by_pos = _Sweep("attn_head_q_by_pos")
get_act_patch_attn_head_k_by_pos = _Sweep("attn_head_k_by_pos")
get_act_patch_attn_head_v_by_pos = _Sweep("attn_head_v_by_pos")
get_act_patch_attn_head_pattern_by_pos = _Sweep("attn_head_pattern_by_pos")
get_act_patch_attn_head_pattern_dest_src_pos = _Sweep("attn_head_pattern_dest_src_pos")
get_act_patch_attn_head_out_all_pos = _Sweep("attn_head_out_all_pos")
get_act_patch_attn_head_q_all_pos = _Sweep("attn_head_q_all_pos")
get_act_patch_attn_head_k_all_pos = _Sweep("attn_head_k_all_pos")
get_act_patch_attn_head_v_all_pos = _Sweep("attn_head_v_all_pos")
get_act_patch_attn_head_pattern_all_pos = _Sweep("attn_head_pattern_all_pos")
get_act_patch_block_every = _Sweep("block_every")
get_act_patch_attn_head_all_pos_every = _Sweep("attn_head_all_pos_every")
get_act_patch_attn_head_by_pos_every = _Sweep("attn_head_by_pos_every")

get_attribution_patch_resid_pre = _attribution("resid_pre")
get_attribution_patch_resid_mid = _attribution("resid_mid")
get_attribution_patch_attn_out = _attribution("attn_out")
get_attribution_patch_mlp_out = _attribution("mlp_out")
get_attribution_patch_attn_head_out_by_pos = _attribution("attn_head_out_by_pos")
get_attribution_patch_attn_head_q_by_pos = _attribution("attn_head_q_by_pos")
get_attribution_patch_attn_head_k_by_pos = _attribution("attn_head_k_by_pos")
get_attribution_patch_attn_head_v_by_pos = _attribution("attn_head_v_by_pos")
get_attribution_patch_attn_head_pattern_by_pos = _attribution("attn_head_pattern_by_pos")
get_attribution_patch_attn_head_pattern_dest_src_pos = _attribution("attn_head_pattern_dest_src_pos")
get_attribution_patch_attn_head_out_all_pos = _attribution("attn_head_out_all_pos")
get_attribution_patch_attn_head_q_all_pos = _attribution("attn_head_q_all_pos")
get_attribution_patch_attn_head_k_all_pos = _attribution("attn_head_k_all_pos")
get_attribution_patch_attn_head_v_all_pos = _attribution("attn_head_v_all_pos")
get_attribution_patch_attn_head_pattern_all_pos = _attribution("attn_head_pattern_all_pos")
get_attribution_patch_block_every = _attribution("block_every")
get_attribution_patch_attn_head_all_pos_every = _attribution("attn_head_all_pos_every")
get_attribution_patch_attn_head_by_pos_every = _attribution("attn_head_by_pos_every")

get_lrp_patch_resid_pre = _lrp("resid_pre")
get_lrp_patch_resid_mid = _lrp("resid_mid")
get_lrp_patch_attn_out = _lrp("attn_out")
get_lrp_patch_mlp_out = _lrp("mlp_out")
get_lrp_patch_attn_head_out_by_pos = _lrp("attn_head_out_by_pos")
get_lrp_patch_attn_head_q_by_pos = _lrp("attn_head_q_by_pos")
get_lrp_patch_attn_head_k_by_pos = _lrp("attn_head_k_by_pos")
get_lrp_patch_attn_head_v_by_pos = _lrp("attn_head_v_by_pos")
get_lrp_patch_attn_head_pattern_by_pos = _lrp("attn_head_pattern_by_pos")
get_lrp_patch_attn_head_pattern_dest_src_pos = _lrp("attn_head_pattern_dest_src_pos")
get_lrp_patch_attn_head_out_all_pos = _lrp("attn_head_out_all_pos")
get_lrp_patch_attn_head_q_all_pos = _lrp("attn_head_q_all_pos")
get_lrp_patch_attn_head_k_all_pos = _lrp("attn_head_k_all_pos")
get_lrp_patch_attn_head_v_all_pos = _lrp("attn_head_v_all_pos")
get_lrp_patch_attn_head_pattern_all_pos = _lrp("attn_head_pattern_all_pos")
get_lrp_patch_block_every = _lrp("block_every")
get_lrp_patch_attn_head_all_pos_every = _lrp("attn_head_all_pos_every")
get_lrp_patch_attn_head_by_pos_every = _lrp("attn_head_by_pos_every")
