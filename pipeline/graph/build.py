"""The planner's graph. Read this first: it is the whole order of events.

    prepare -> reproduce -> scaffold -> localise -> pack
                   |                        |
                   +------------------------+--> give_up -> report

            +---------- stack -----> pack -> draft -> apply -> test -> combine -> judge -+-> select  -> report
            |                                                                            +-> give_up -> report
            +---------- revise | escalate <----------------------------------------------+

Each node is a function of the tools (what reaches outside) and the progress (what has happened); `routing`
decides between the ways. After every node the record is saved and the progress checkpointed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from langgraph.graph import END, START, StateGraph

from pipeline.graph.nodes.apply import apply
from pipeline.graph.nodes.draft import draft
from pipeline.graph.nodes.finish import escalate, give_up, report, revise, select
from pipeline.graph.nodes.localise import localise, pack
from pipeline.graph.nodes.prepare import prepare
from pipeline.graph.nodes.reproduce import reproduce
from pipeline.graph.nodes.scaffold import scaffold
from pipeline.graph.nodes.stack import combine, stack
from pipeline.graph.nodes.test import judge, test
from pipeline.graph.routing import after_judge, after_localise, after_reproduce
from pipeline.graph.state import Progress, State, dump, load
from pipeline.graph.toolbox import Toolbox
from pipeline.telemetry import Action

Node = Callable[[Toolbox, Progress], Awaitable[None]]


def build_graph(tools: Toolbox) -> StateGraph[Any, Any, Any, Any]:
    """Return the graph over these tools, ready to be compiled with a checkpointer."""
    ladder = tools.settings.planner.ladder
    graph = StateGraph(State)
    for node in (prepare, reproduce, scaffold, localise, pack, draft, apply, test, combine, judge):
        graph.add_node(node.__name__, partial(_run_node, tools, node))
    for node in (select, revise, escalate, stack, give_up, report):
        graph.add_node(node.__name__, partial(_run_node, tools, node))

    graph.add_edge(START, "prepare")
    graph.add_edge("prepare", "reproduce")
    graph.add_conditional_edges("reproduce", lambda s: after_reproduce(load(s)), ["scaffold", "give_up"])
    graph.add_edge("scaffold", "localise")
    graph.add_conditional_edges("localise", lambda s: after_localise(load(s)), ["pack", "give_up"])
    graph.add_edge("pack", "draft")
    graph.add_edge("draft", "apply")
    graph.add_edge("apply", "test")
    graph.add_edge("test", "combine")
    graph.add_edge("combine", "judge")
    graph.add_conditional_edges(
        "judge",
        lambda s: after_judge(load(s), ladder),
        ["select", "revise", "escalate", "give_up"],
    )
    graph.add_edge("revise", "stack")
    graph.add_edge("escalate", "stack")
    graph.add_edge("stack", "pack")
    graph.add_edge("select", "report")
    graph.add_edge("give_up", "report")
    graph.add_edge("report", END)
    return graph


async def _run_node(tools: Toolbox, node: Node, state: State) -> State:
    """Run one node: timed, reported, and with its record saved before the graph goes on."""
    name = node.__name__
    progress = load(state)
    tools.lay(progress.laid)
    tools.say(Action.STAGE_STARTED, f"{name} begins", stage=name)
    tools.stage_started = started = time.monotonic()
    await node(tools, progress)
    seconds = time.monotonic() - started
    stages = progress.record.seconds_by_stage
    stages[name] = stages.get(name, 0.0) + seconds
    tools.folder.save(progress.record)
    tools.say(Action.STAGE_FINISHED, f"{name} took {seconds:.1f} s", stage=name, seconds=seconds)
    return dump(progress)
