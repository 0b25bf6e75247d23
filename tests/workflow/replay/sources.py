"""Templates whose journals are recorded: together they have each kind of node. Nodes and output of each, by name."""

CHILD = (
    """
  - id: again
    uses: loop
    with: {max_iterations: 3}
    until: ${steps.twice.output.value >= 8}
    nodes: [{id: twice, uses: python, with: {function: double, arguments: {value: "${index == 0 ? 2 : previous}"}}}]
    output: ${steps.twice.output.value}""",
    "${steps.again.output}",
)
SOURCES = {
    "documents": (
        """
  - {id: index, uses: documents.index, with: {file: file-0, collection: c}}
  - {id: summary, uses: serving.summarise, needs: [index], with: {file: file-0}}
  - id: digest
    uses: documents.digest
    needs: [summary]
    with: {title: Digest, summaries: ["${steps.summary.output}"]}""",
        "${steps.digest.output}",
    ),
    "write": ("  - {id: note, uses: documents.write, with: {name: a.txt, text: Rates rose.}}", "${run.started_at}"),
    "report": (
        """
  - {id: find, uses: retrieve, with: {collection: desk, question: "What rose?"}}
  - id: memo
    uses: documents.report
    needs: [find]
    with: {title: Memo, sections: [{heading: Findings, text: Rates rose.}]}""",
        "${steps.memo.output}",
    ),
    "answer": (
        """
  - {id: store, uses: ingest, with: {file: file-0, collection: desk}}
  - {id: find, uses: retrieve, needs: [store], with: {collection: desk, question: "What rose?"}}
  - id: write
    uses: model
    needs: [find]
    with: {prompt: "Answer: What rose?", passages: "${steps.find.output.passages}"}""",
        "${steps.write.output.text}",
    ),
    "map": (
        """
  - id: all
    uses: map
    with: {items: "${[1, 2, 3, 4, 5]}", concurrency: 2}
    nodes: [{id: one, uses: python, with: {function: double, arguments: {value: "${item}"}}}]
    output: ${steps.one.output.value + index}""",
        "${steps.all.output}",
    ),
    "loop": CHILD,
    "switch": (
        """
  - {id: one, uses: python, with: {function: double, arguments: {value: 1}}}
  - id: choose
    uses: switch
    needs: [one]
    cases:
      - when: ${steps.one.output.value > 1}
        nodes: [{id: high, uses: python, with: {function: double, arguments: {value: 5}}}]
        output: ${steps.high.output.value}
      - output: low""",
        "${steps.choose.output}",
    ),
    "wait": ("  - {id: pause, uses: wait, with: {seconds: 0.1}}", "${steps.pause.output}"),
    "approval": (
        """
  - {id: ok, uses: approval, with: {title: Release, details: {amount: 5}, deadline_seconds: 600}}
  - {id: after, uses: python, needs: [ok], with: {function: double, arguments: {value: 2}}}""",
        "${steps.after.output.value}",
    ),
    "workflow": ("  - {id: child, uses: workflow, with: {template: grow, inputs: {}}}", "${steps.child.output}"),
    "failure": (
        """
  - {id: fine, uses: python, with: {function: double, arguments: {value: 2}}}
  - {id: bad, uses: python, needs: [fine], with: {function: double, arguments: {}}}""",
        "${steps.bad.output}",
    ),
}
