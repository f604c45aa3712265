"""Engine: messages to token ids, token ids to text, and the hosts that a core runs in.

`engine.Engine` is the facade, `models.models.Models` the models of a server. Its folders import
each other in this order only: engine -> run -> {request, reuse, hosts}, engine -> load ->
images, request -> {reply, images}, reuse -> reply, {reply, images} -> text -> template; all may
import `procedures` and `prompt`. Only `hosts.thread` imports the core.
"""
