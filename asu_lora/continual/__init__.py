"""Request after request: each step leaves an adapter on top of those before it.

Steps are trained on top of the stack so far, independently and then added, or as one running adapter. Two other ways
to keep requests from interfering are not here. Replay of earlier requests' teacher targets without their text is not
possible: a loss needs the student's states where the targets stand, and these need the tokens before them, which are
the text; whoever may keep the text can put the earlier rows into the next request. And an adapter that is orthogonal
to the earlier ones by force (O-LoRA) loses the ranks that a long history has used up.
"""
