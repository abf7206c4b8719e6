package term

import (
	"strings"
	"sync"
	"unicode/utf8"
)

// Live shows on standard error how something that takes its time stands: on
// a terminal in one line that is written anew, elsewhere in a line for each
// change. It is safe for concurrent use.
type Live struct {
	s *Streams

	mu    sync.Mutex
	last  string // what was shown last
	shown int    // columns of it on the terminal
}

// liveWidth is how wide a line may be: one that wraps could not be written
// anew.
const liveWidth = 79

// Live returns a Live that shows nothing yet.
func (s *Streams) Live() *Live { return &Live{s: s} }

// Show shows state, and on a terminal behind it detail, which may change
// without being told of elsewhere: seconds that go by.
func (l *Live) Show(state, detail string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.s.ErrTTY {
		if line := Clean(state); line != l.last {
			l.last = line
			l.s.Sayf("%s\n", line)
		}
		return
	}
	line := Clean(strings.TrimSpace(state + "  " + detail))
	if n := utf8.RuneCountInString(line); n > liveWidth {
		line = string([]rune(line)[:liveWidth-1]) + "…"
	}
	if line == l.last {
		return
	}
	width := utf8.RuneCountInString(line)
	l.s.Sayf("\r%s%s", line, strings.Repeat(" ", max(0, l.shown-width)))
	l.last, l.shown = line, width
}

// End takes the line off the terminal.
func (l *Live) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.s.ErrTTY && l.shown > 0 {
		l.s.Sayf("\r%s\r", strings.Repeat(" ", l.shown))
		l.last, l.shown = "", 0
	}
}
