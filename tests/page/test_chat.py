"""Chats on the page, in a real browser: what people do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.page.conftest import KEY, Open, reply, say

ENDLESS = {"model": "tiny", "other": json.dumps({"ignore_eos": True, "max_tokens": 8000})}


def path(page: Any) -> list[str]:
    """The texts that are shown."""
    return [
        each.strip() for each in page.locator(".said, .prose").all_inner_texts() if each.strip()
    ]


def test_a_message_is_answered_with_its_numbers(opened: Open) -> None:
    page = opened()
    say(page, "Hello there")
    answer = reply(page, "Hello.")
    answer.locator("summary", has_text="tok/s").click()
    words = answer.locator("dl").inner_text()
    assert "tokens of the prompt" in words and "by itself" in words
    assert re.search(r"req-[0-9a-f]{32}", words)
    assert page.get_by_role("heading", name="Hello there").is_visible()


def test_what_the_cache_did_is_said_in_words(opened: Open) -> None:
    page = opened(settings={"model": "tiny", "parameters": {"temperature": 0}})
    say(page, "What is the capital of France?")
    reply(page, "Paris").locator("summary", has_text="prompt tokens").wait_for()
    page.get_by_role("button", name="Regenerate").click()
    page.locator("summary", has_text="prompt tokens cached").click()
    words = reply(page, "Paris").inner_text()
    assert "came from memory and were not computed. All of the prompt was stored." in words


def test_a_reply_streams_and_stops(opened: Open) -> None:
    page = opened(settings=ENDLESS)
    say(page, "Go on")
    prose = page.locator("article.assistant .prose").last
    page.wait_for_function(
        "() => document.querySelector('article.assistant').innerText.length > 40"
    )
    before = len(prose.inner_text())
    page.wait_for_function(
        "n => document.querySelector('article.assistant').innerText.length > n + 40", arg=before
    )
    page.get_by_role("button", name="Stop").click()
    stopped = reply(page, "Stopped.").inner_text()
    assert page.get_by_role("button", name="Send").is_visible()
    page.wait_for_timeout(300)
    assert reply(page, "Stopped.").inner_text() == stopped
    say(page, "Once more")
    page.locator("article.writing").wait_for()
    page.keyboard.press("Escape")
    page.locator("article.assistant", has_text="Stopped.").nth(1).wait_for()


def test_replies_made_anew_and_edited_messages_are_branches(opened: Open) -> None:
    page = opened(settings={"model": "tiny", "parameters": {"temperature": 1.5, "max_tokens": 20}})
    say(page, "Tell me a story")
    first = page.locator("article.assistant:not(.writing) .prose").last
    first.wait_for()
    page.locator("article.assistant summary", has_text="tok/s").wait_for()
    said = path(page)
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_label("Version 2 of 2").wait_for()
    page.locator("article.assistant summary", has_text="tok/s").wait_for()
    other = path(page)
    page.get_by_role("button", name="Previous version").click()
    page.get_by_label("Version 1 of 2").wait_for()
    assert path(page) == said
    page.get_by_role("button", name="Next version").click()
    page.get_by_label("Version 2 of 2").wait_for()
    assert path(page) == other
    page.locator("article.user").hover()
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_label("Edit the message").fill("Tell me a poem")
    page.keyboard.press("Enter")
    page.locator("article.user").get_by_label("Version 2 of 2").wait_for()
    page.locator("article.assistant summary", has_text="tok/s").wait_for()
    assert path(page)[0] == "Tell me a poem"
    page.locator("article.user").get_by_role("button", name="Previous version").click()
    page.locator("article.user").get_by_label("Version 1 of 2").wait_for()
    assert path(page) == other


def test_what_was_said_is_there_after_a_reload_and_goes_on(opened: Open) -> None:
    page = opened()
    say(page, "script format; please")
    reply(page, "That was all of it.")
    page.reload()
    reply(page, "That was all of it.")
    say(page, "And then?")
    reply(page, "That is all.")
    page.get_by_role("button", name="New chat").click()
    page.get_by_text("What would you like to know?").wait_for()
    page.locator("#conversations .row").first.click()
    reply(page, "That is all.")


def test_a_reply_that_a_reload_cut_off_says_so(opened: Open) -> None:
    page = opened(settings=ENDLESS)
    say(page, "Go on")
    page.wait_for_function(
        "() => document.querySelector('article.assistant').innerText.length > 40"
    )
    page.reload()
    reply(page, "Stopped.")


def test_formatted_text(opened: Open) -> None:
    page = opened()
    say(page, "script format; please")
    answer = reply(page, "That was all of it.")
    prose = answer.locator(".prose").last
    for role, name in (("heading", "A heading"), ("link", "a link"), ("columnheader", "Size")):
        assert prose.get_by_role(role, name=name).is_visible()
    assert prose.locator("strong").inner_text() == "bold" and prose.locator("del").is_visible()
    assert prose.locator("li li").all_inner_texts() == ["first inside", "second inside"]
    assert prose.get_by_role("checkbox").is_checked()
    assert prose.locator("blockquote").inner_text().strip() == "A quotation"
    assert prose.locator("pre").inner_text() == "def square(x):\n    return x * x"
    answer.get_by_role("button", name="Copy the code").click()
    page.wait_for_function(
        "async () => (await navigator.clipboard.readText()).startsWith('def square')"
    )


def test_reasoning_is_folded_and_calls_are_shown_and_answered(opened: Open) -> None:
    tools = [
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    ]
    page = opened(settings={"tools": json.dumps(tools)})
    say(page, "script think; please")
    answer = reply(page, "Good day to you!")
    thought = answer.get_by_text("I greet back.")
    assert not thought.is_visible()
    answer.get_by_text("Reasoning", exact=True).click()
    assert thought.is_visible()
    say(page, "script call; please")
    answer = reply(page, "Calls weather")
    answer.get_by_text("Calls weather").click()
    assert '"city": "Oslo"' in answer.get_by_label("Arguments").inner_text()
    answer.get_by_role("button", name="Give its result").click()
    page.get_by_label("What the tool returns").fill("rain")
    page.get_by_role("button", name="Give it", exact=True).click()
    reply(page, "It rains in Oslo.")


PASTED = """async () => {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 8;
  canvas.getContext('2d').fillRect(0, 0, 4, 8);
  const blob = await new Promise(done => canvas.toBlob(done, 'image/png'));
  const given = new DataTransfer();
  given.items.add(new File([blob], 'a.png', {type: 'image/png'}));
  const target = document.getElementById('say');
  const real = {bubbles: true, cancelable: true};
  target.dispatchEvent(new ClipboardEvent('paste', {clipboardData: given, ...real}));
  const dropped = new DragEvent('drop', {dataTransfer: given, ...real});
  document.getElementById('chat').dispatchEvent(dropped);
}"""


def test_pictures_are_pasted_dropped_and_seen(opened: Open) -> None:
    page = opened(settings={"model": "eyes", "parameters": {"max_tokens": 8}})
    sent: list[Any] = []
    page.on("request", lambda each: each.method == "POST" and sent.append(each.post_data_json))
    page.evaluate(PASTED)
    page.get_by_role("button", name="Remove picture 2").click()
    say(page, "What is this?")
    page.locator("article.assistant summary", has_text="prompt tokens").wait_for()
    assert page.locator("article.user img").count() == 1
    first, second = sent[0]["messages"][0]["content"]
    assert first["image_url"]["url"].startswith("data:image/png;base64,")
    assert second == {"type": "text", "text": "What is this?"}
    page.locator("#model").select_option("agent")
    say(page, "And now?")
    assert "takes text only" in page.locator("article.assistant .error").inner_text()


def test_a_key_is_asked_for(opened: Open) -> None:
    page = opened(key=None)
    dialog = page.get_by_role("dialog", name="API key")
    dialog.locator("input[type=password]").fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("The server does not know this key.").wait_for()
    page.get_by_role("dialog").locator("input[type=password]").fill(KEY)
    page.keyboard.press("Enter")
    dialog.wait_for(state="hidden")
    say(page, "Hello")
    reply(page, "Hello.")
    assert page.evaluate("() => localStorage.getItem('budmlx.key')") is None
    page.reload()
    reply(page, "Hello.")
    assert not dialog.is_visible()


def test_settings_reach_the_server_and_refusals_are_told(opened: Open) -> None:
    page = opened()
    sent: list[Any] = []
    page.on("request", lambda each: each.method == "POST" and sent.append(each.post_data_json))
    page.get_by_role("button", name="Settings of this chat").click()
    page.get_by_label("System prompt").fill("You are terse.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Most tokens").fill("7")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Other parameters").fill('{"unheard_of": 1}')
    page.get_by_role("button", name="Use", exact=True).click()
    say(page, "Hello")
    answer = reply(page, "Hello.")
    assert sent[0]["messages"][0] == {"role": "system", "content": "You are terse."}
    assert (sent[0]["temperature"], sent[0]["max_tokens"]) == (0.5, 7)
    assert "unheard_of" in answer.locator(".warning").inner_text()
    page.get_by_role("button", name="Settings of this chat").click()
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Other parameters").fill('{"top_logprobs": 50}')
    page.get_by_role("button", name="Use", exact=True).click()
    say(page, "Hello")
    assert "top_logprobs" in page.locator(".error").inner_text()


def test_conversations_are_renamed_deleted_exported_and_imported(
    opened: Open, tmp_path: Path
) -> None:
    page = opened()
    say(page, "Hello")
    reply(page, "Hello.")
    page.locator(".row", has_text="Hello").hover()
    page.get_by_role("button", name="Rename Hello").click()
    page.get_by_role("textbox", name="Name").fill("Greetings")
    page.keyboard.press("Enter")
    page.locator(".row", has_text="Greetings").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    file = tmp_path / "kept.json"
    download.value.save_as(file)
    page.locator(".row", has_text="Greetings").hover()
    page.get_by_role("button", name="Delete Greetings").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.locator(".row").wait_for(state="detached")
    page.get_by_label("File to import").set_input_files(file)
    page.locator(".row", has_text="Greetings").click()
    reply(page, "Hello.")
    file.write_text(
        '{"format": "budmlx-conversations", "version": 1, "conversations": [{"id": "<b>"}]}'
    )
    page.get_by_label("File to import").set_input_files(file)
    page.get_by_text("This file holds no conversations").wait_for()


def test_keys(opened: Open) -> None:
    page = opened()
    say(page, "First")
    reply(page, "Hello.")
    page.keyboard.press("ArrowUp")
    page.get_by_label("Edit the message").wait_for()
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keys").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Two")
    page.keyboard.press("Enter")
    page.locator(".said", has_text="One\nTwo").wait_for()
    reply(page, re.compile("Hello|all"))
    page.keyboard.press("Control+Shift+O")
    page.get_by_text("What would you like to know?").wait_for()
