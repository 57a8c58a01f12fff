import time
from s3_rig import *
from workplace import *
from asyncart import aio
async def test_it(workshop):
    async with workshop.rig() as rig:
        for tree in (small_files(1), large_file(1), small_tree(1)):
            t=time.perf_counter()
            async with rig.init() as run:
                a = await run.log_artifact(rig.artifact(tree))
                print("log", time.perf_counter()-t)
                for e in rig.proxy.exchanges: print(e)
                rig.proxy.clear()
                t=time.perf_counter()
                d = rig.fresh("target")
                await a.download(d)
                print("down", time.perf_counter()-t, rig.proxy.exchanges)
                rig.proxy.clear()
                assert read_tree(d) == tree
            rig.check_clean()
