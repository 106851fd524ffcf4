import asyncio, time, sys
from benchmarks.harness import *
from benchmarks.hosted.host import *
from benchmarks.hosted.callers import *
from duologue.host.workers.isolation import new_loop
async def main(tls,tier,vad,n):
    m,l=split_cores()
    t0=time.time()
    async with hosting(m,tls=tls,gateways=1) as h:
        print('up',time.time()-t0)
        url=await h.deploy("a",tier=tier,environment={"VAD":vad,"LONG_S":"60"})
        print('deployed',time.time()-t0)
        with pinned(l):
            c=Callers(url,h.key,h.trust,round_of(20,[(0,1,1.2)]),first=round_of(2,[(0.5,1,1.2)]))
            await c.grow(n)
            print('grown',time.time()-t0)
            await asyncio.sleep(4); c.look(); a=cpu_by_role(h.processes()); s=time.time(); g=time.process_time()
            await asyncio.sleep(8)
            t=c.look(); b=cpu_by_role(h.processes()); d=time.time()-s; g=time.process_time()-g
            print({k:round((b[k]-a.get(k,0))/d/n*1000,2) for k in b},'ms per session-second; generator',round(g/d,3))
            print(t.late.ms,t.trip.ms,t.ticks.ms); 
            t.late=t.trip=t.ticks=None; print(t, t.received/d/n, t.sent/d/n)
            print(await c.reckon())
            await c.hang_up()
            print('hung',time.time()-t0)
            await h.settle()
            print('settled',time.time()-t0)
    print('ended',time.time()-t0)
with asyncio.Runner(loop_factory=new_loop) as r: r.run(main(sys.argv[1]=='tls',sys.argv[2],sys.argv[3],int(sys.argv[4])))
