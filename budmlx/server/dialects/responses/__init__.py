"""The Responses protocol of OpenAI, as its SDKs, Codex, opencode and agent frameworks speak it.

`dialect` is what the server sees; `create` answers `POST /v1/responses`. A body (`body`) has items
(`items`), tools (`tools`) and a form of its text (`text_format`); `conversation` makes messages of
the items. `shapes` are the objects of replies, which `reply` builds from the engine's events.
"""
