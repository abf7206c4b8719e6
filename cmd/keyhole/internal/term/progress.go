package term

import (
	"fmt"
	"strings"
	"time"
)

// Waiting shows at the terminal that something takes its time, with the
// seconds gone by, until the returned function is called. Nothing is shown in
// the first second, or without a terminal.
func (s *Streams) Waiting(what string) (stop func()) {
	if !s.ErrTTY {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(time.Second)
		defer t.Stop()
		shown := 0
		for seconds := 1; ; seconds++ {
			select {
			case <-end:
				if shown > 0 {
					s.Sayf("\r%s\r", strings.Repeat(" ", shown))
				}
				return
			case <-t.C:
				line := fmt.Sprintf("%s ... %d s", what, seconds)
				s.Sayf("\r%s", line)
				shown = len(line)
			}
		}
	}()
	return func() { close(end); <-ended }
}
