"""Vectors of answers: the completion bytes in bodies of every form, right and wrong."""

from __future__ import annotations

from collections.abc import Iterable

from serving.openai.answers import EVENT_STREAM, AnswerInspector
from serving.openai.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS
from tests.vectors.plain import Json

BODY = "application/json"
CALLS_WITHOUT_TOOLS = "calls in the answer to a request without tools"
DONE = "data: [DONE]\n\n"


def make_answers() -> Json:
    """Each body as text in Latin-1, one character a byte."""
    cases = []
    for what, path, content_type, choices, text in _list_cases():
        inspector = AnswerInspector(
            content_type.startswith(EVENT_STREAM),
            form=ENDPOINTS[path].form,
            choices=choices,
            has_tools=what != CALLS_WITHOUT_TOOLS,
        )
        inspector.feed(text.encode("latin-1"))
        inspector.finish()
        assert inspector.error is None, what
        cases.append(
            {
                "what": what,
                "path": path,
                "content_type": content_type,
                "n": choices,
                "has_tools": what != CALLS_WITHOUT_TOOLS,
                "body": text,
                "completion_bytes": inspector.completion_bytes,
            }
        )
    return {
        "description": "Completion bytes of bodies, each written with one character a byte (Latin-1).",
        "section": "19.1",
        "answers": cases,
    }


def _list_cases() -> Iterable[tuple[str, str, str, int, str]]:
    for what, choices, text in _list_bodies():
        yield what, CHAT.path, BODY, choices, text
    for what, choices, text in _list_streams():
        yield what, CHAT.path, f"{EVENT_STREAM}; charset=utf-8", choices, text
    for what, choices, text in _list_text_bodies():
        yield what, COMPLETIONS.path, BODY, choices, text
    for what, choices, text in _list_text_streams():
        yield what, COMPLETIONS.path, EVENT_STREAM, choices, text
    vectors = '{"data":[{"embedding":[0.5,0.25]},{"embedding":"AAAAPw=="}],"usage":{"prompt_tokens":2}}'
    yield "embeddings are worth nothing", EMBEDDINGS.path, BODY, 2, vectors
    yield "text beside embeddings", EMBEDDINGS.path, BODY, 1, '{"data":[{}],"choices":[{"text":"abc"}]}'


def _list_text_bodies() -> Iterable[tuple[str, int, str]]:
    yield "text of a completion", 1, '{"choices":[{"index":0,"text":"abc","finish_reason":"stop","logprobs":null}]}'
    yield "two texts of two", 2, '{"choices":[{"text":"ab"},{"index":1,"text":"cde"}]}'
    yield "two texts of one", 1, '{"choices":[{"text":"ab"},{"index":1,"text":"cde"}]}'
    yield "a message in a completion", 1, '{"choices":[{"text":"ab","message":{"content":"cde"}}]}'
    yield "a message that is no object in a completion", 1, '{"choices":[{"text":"ab","message":5}]}'
    yield "a text that is not a string", 2, '{"choices":[{"text":"ab"},{"text":["c"]}]}'
    yield "a completion whose finish reason is not a string", 1, '{"choices":[{"text":"ab","finish_reason":0}]}'
    yield "a completion in UTF-8, and escapes", 1, '{"choices":[{"text":"é\\u00e9😀"}]}'.encode().decode("latin-1")


def _list_text_streams() -> Iterable[tuple[str, int, str]]:
    def event(content: str) -> str:
        return f'data: {{"choices":[{{"index":0,{content}}}]}}\n\n'

    yield "events of a completion", 1, event('"text":"ab"') + event('"text":"cde","finish_reason":"length"') + DONE
    yield "a delta in a completion", 1, event('"text":"ab"') + event('"delta":{"content":"cde"}') + DONE


def _list_bodies() -> Iterable[tuple[str, int, str]]:
    yield "text", 1, '{"choices":[{"index":0,"message":{"role":"assistant","content":"abc"},"finish_reason":"stop"}]}'
    yield "text of the older completions counts for nothing", 1, '{"choices":[{"text":"abc"}]}'
    yield (
        "text, reasoning, names and arguments",
        1,
        (
            '{"choices":[{"message":{"content":"ab","reasoning":"cde",'
            '"tool_calls":[{"id":"call-1","function":{"name":"find","arguments":"{\\"a\\":1}"}},{"function":null},{}],'
            '"function_call":{"name":"f","arguments":"{}"}}}]}'
        ),
    )
    yield (
        CALLS_WITHOUT_TOOLS,
        1,
        '{"choices":[{"message":{"content":"ab","tool_calls":[{"function":{"name":"find","arguments":"{}"}}]}}]}',
    )
    yield "a name that is not a string", 1, '{"choices":[{"message":{"content":"ab","function_call":{"name":1}}}]}'
    yield "a finish reason that is not a string", 1, '{"choices":[{"message":{"content":"ab"},"finish_reason":0}]}'
    yield "usage that is not an object", 1, '{"choices":[{"message":{"content":"ab"}}],"usage":[]}'
    yield (
        "a count that is not a number",
        1,
        '{"choices":[{"message":{"content":"a"}}],"usage":{"completion_tokens":[]}}',
    )
    yield (
        "reasoning under both names is one",
        1,
        '{"choices":[{"message":{"reasoning":"abc","reasoning_content":"abc"}}]}',
    )
    yield "reasoning under its other name", 1, '{"choices":[{"message":{"reasoning":"","reasoning_content":"abcd"}}]}'
    yield "escapes", 1, r'{"choices":[{"message":{"content":"\u0041\n\"\/\ud83d\ude00\u00e9"}}]}'
    yield "UTF-8", 1, '{"choices":[{"message":{"content":"é你😀"}}]}'.encode().decode("latin-1")
    yield "an escaped name", 1, r'{"ch\u006fices":[{"message":{"content":"abc"}}]}'
    yield (
        "white space and unknown fields",
        1,
        (
            ' {\t"x" : [1.5e3, {"content": "no"}, null], "choices" : [ {"logprobs": {"content": [{"token": "a"}]},'
            ' "message": {"content" : "abc" , "refusal": "no", "name": "no"} } ]\r\n} \n'
        ),
    )
    yield (
        "of a repeated name the last",
        1,
        '{"choices":[{"message":{"content":"abcdef","content":"ab"}}],"choices":[{"message":{"content":"abc"}}]}',
    )
    yield "two choices of two", 2, '{"choices":[{"message":{"content":"ab"}},{"index":1,"message":{"content":"cde"}}]}'
    yield "two choices of one", 1, '{"choices":[{"message":{"content":"ab"}},{"index":1,"message":{"content":"cde"}}]}'
    yield "a delta is not part of a body", 1, '{"choices":[{"delta":{"content":"abc"}}]}'
    yield (
        "content that is not a string",
        1,
        '{"choices":[{"message":{"content":[{"type":"text","text":"abc"}],"reasoning":"de"}}]}',
    )
    yield (
        "null where an object may be",
        2,
        '{"choices":[{"message":null,"finish_reason":null},{"message":{"content":"ab","tool_calls":null}}],"usage":null}',
    )
    yield "usage is worth nothing", 1, '{"choices":[],"usage":{"completion_tokens":4096}}'
    yield "no choices", 1, '{"data":[{"embedding":[0.5,0.25]}]}'
    yield "not an object", 1, '[{"choices":[{"message":{"content":"abc"}}]}]'
    yield "a choice that is not an object", 2, '{"choices":[{"message":{"content":"abc"}},"abc"]}'
    yield "tool calls that are not a list", 1, '{"choices":[{"message":{"content":"abc","tool_calls":{}}}]}'
    yield "half of a surrogate pair", 1, r'{"choices":[{"message":{"content":"abc"}}],"x":"\ud83d"}'
    yield "not UTF-8", 1, '{"choices":[{"message":{"content":"abc"}}],"x":"\xff"}'
    yield "a byte order mark", 1, "\xef\xbb\xbf" + '{"choices":[{"message":{"content":"abc"}}]}'
    yield "not a number", 1, '{"choices":[{"message":{"content":"abc"}}],"x":NaN}'
    yield "more after the end", 1, '{"choices":[{"message":{"content":"abc"}}]}{}'
    yield "cut off", 1, '{"choices":[{"message":{"content":"abc"}}'
    yield "nothing", 1, ""


def _list_streams() -> Iterable[tuple[str, int, str]]:
    def event(content: str, before: str = "") -> str:
        return f'{before}data: {{"choices":[{{"delta":{{{content}}}}}]}}\n\n'

    yield "two events", 1, event('"content":"ab"') + event('"content":"cde"') + DONE
    yield (
        "reasoning and arguments in pieces",
        1,
        (
            event('"reasoning_content":"ab"')
            + event('"tool_calls":[{"index":0,"function":{"name":"find","arguments":""}}]')
            + event('"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]')
            + DONE
        ),
    )
    yield (
        "comments and other lines",
        1,
        ": " + 40 * " " + "\n\n" + event('"content":"ab"', ": x\nevent: e\nid: 1\n") + DONE,
    )
    yield "CR LF, and no space", 1, 'data:{"choices":[{"delta":{"content":"abc"}}]}\r\n\r\ndata:[DONE]\r\n\r\n'
    yield "JSON over several lines", 1, 'data: {"choices":\ndata:\r: x\rdata: [{"delta":{"content":"abc"}}]}\n\n' + DONE
    yield "a string over two lines", 1, 'data: {"choices":[{"delta":{"content":"ab\ndata: c"}}]}\n\n' + DONE
    yield (
        "a usage event",
        1,
        event('"content":"ab"') + 'data: {"choices":[],"usage":{"completion_tokens":4096}}\n\n' + DONE,
    )
    yield "after the closing event", 1, event('"content":"ab"') + DONE + event('"content":"cde"')
    yield (
        "one event for two choices",
        2,
        'data: {"choices":[{"delta":{"content":"ab"}},{"index":1,"delta":{"content":"c"}}]}\n\n' + DONE,
    )
    yield (
        "more choices than were asked for",
        1,
        'data: {"choices":[{"delta":{"content":"ab"}},{"index":1,"delta":{"content":"c"}}]}\n\n' + DONE,
    )
    yield "a message is not part of an event", 1, 'data: {"choices":[{"message":{"content":"abc"}}]}\n\n' + DONE
    yield (
        "an event that is not JSON between others",
        1,
        event('"content":"ab"') + "data: {\n\n" + event('"content":"c"') + DONE,
    )
    yield "no blank line at the end", 1, event('"content":"ab"') + event('"content":"cde"').rstrip("\n")
    yield "cut off", 1, event('"content":"ab"') + event('"content":"cde"')[:-8]
