"""Training and sampling on several devices: the same signature and the same numbers as on one.

`pmap_step` and `pmap_sample` copy the parameters to every local device and split the batch (`jax.pmap`); `shard_step`
and `shard_sample` place both on a mesh of devices, of one process or of many, which may split the parameters too.
"""

from jaxdiff.parallel.layout import RULES as RULES
from jaxdiff.parallel.layout import global_batch as global_batch
from jaxdiff.parallel.layout import make_mesh as make_mesh
from jaxdiff.parallel.layout import place as place
from jaxdiff.parallel.layout import shardings as shardings
from jaxdiff.parallel.pmapped import pmap_sample as pmap_sample
from jaxdiff.parallel.pmapped import pmap_step as pmap_step
from jaxdiff.parallel.pmapped import replicate as replicate
from jaxdiff.parallel.sharded import shard_sample as shard_sample
from jaxdiff.parallel.sharded import shard_step as shard_step
