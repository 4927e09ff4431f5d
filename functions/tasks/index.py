"""Manage tasks with FastAPI."""

# Call it, with the keys of `eval "$(functions keys)"`:
#   curl http://localhost:54321/functions/v1/tasks -H "Authorization: Bearer $ANON_KEY" \
#     -H "Content-Type: application/json" -d '{"title": "Water the plants"}'
#   curl http://localhost:54321/functions/v1/tasks -H "Authorization: Bearer $ANON_KEY"
#   curl -X PATCH http://localhost:54321/functions/v1/tasks/2 -H "Authorization: Bearer $ANON_KEY" \
#     -H "Content-Type: application/json" -d '{"done": true}'
#   curl -X DELETE http://localhost:54321/functions/v1/tasks/2 -H "Authorization: Bearer $ANON_KEY"
#
# FastAPI's own pages are at …/tasks/docs and …/tasks/openapi.json, behind the same key.

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field


class NewTask(BaseModel):
    title: str = Field(min_length=1, max_length=200)


class Change(BaseModel):
    done: bool


class Task(NewTask):
    id: int
    done: bool = False


tasks: dict[int, Task] = {}
numbers = itertools.count(1)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    create(NewTask(title="Read functions/tasks/index.py"))  # here one would open a database …
    yield
    print(f"forgetting {len(tasks)} tasks")  # … and close it again


app = FastAPI(title="Tasks", lifespan=lifespan)


@app.get("/")
def everything() -> list[Task]:
    return list(tasks.values())


@app.post("/", status_code=201)
def create(new: NewTask) -> Task:
    task = Task(id=next(numbers), title=new.title)
    tasks[task.id] = task
    return task


@app.get("/{number}")
def one(number: int) -> Task:
    if number not in tasks:
        raise HTTPException(404, f"There is no task {number}")
    return tasks[number]


@app.patch("/{number}")
def change(number: int, wanted: Change) -> Task:
    task = one(number)
    task.done = wanted.done
    return task


@app.delete("/{number}", status_code=204)
def delete(number: int) -> None:
    del tasks[one(number).id]
