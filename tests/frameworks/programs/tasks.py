"""Coroutines: each with a run, which log in turns; one that fails; one that logs from threads."""

import asyncio

import wandb


async def train(number):
    with wandb.init(project="tasks", id=f"task{number}", reinit="create_new",
                    config={"number": number}) as run:  # fmt: skip
        for step in range(20):
            run.log({"loss": number + 1 / (step + 1)})
            await asyncio.sleep(0)
        if number == 2:
            raise ValueError("this one fails")
        await asyncio.to_thread(run.log, {"from_thread": number})


async def main():
    results = await asyncio.gather(*map(train, range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), type(None), ValueError]


asyncio.run(main())
