"""What the scripted model says. Standard library only, for environments without budmlx."""

from __future__ import annotations

FORMATTED = """\
# A heading

Some **bold**, *slanted*, ~~struck~~ and `inline` words, and [a link](https://example.org/a?b=c).

- one
- two
  1. first inside
  2. second inside
- [x] done

> A quotation

| Name | Size |
|---|---:|
| tiny | 3 MiB |

```python
def square(x):
    return x * x
```

That was all of it."""

ATTACK = """\
<script>document.title = 'taken'</script>
<img src=x onerror="document.title='taken'">
[press](javascript:document.title='taken') and ![seen](https://evil.example/pixel.png)
<a href="javascript:alert(1)">there</a> <svg onload=alert(1)>

```html
<iframe srcdoc="<script>parent.document.title='taken'</script>"></iframe>
```

| <b onmouseover=alert(1)>cell</b> | `<img src=y onerror=alert(2)>` |
|---|---|
| <style>*{display:none}</style> | [x](data:text/html,<script>alert(3)</script>) |

Nothing of this came alive."""

SAID = {"format": (FORMATTED,), "attack": (ATTACK,)}
