"""Request after request: each step leaves an adapter on top of those before it.

Steps are trained on top of the stack so far (also with each new adapter kept orthogonal to it), independently and then
added, or as one running adapter. Another way to keep requests from interfering is not here: replay of earlier requests'
teacher targets without their text is not possible. A loss needs the student's states where the targets stand, and
these need the tokens before them, which are the text; whoever may keep the text can put the earlier rows into the next
request.
"""
