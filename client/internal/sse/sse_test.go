package sse

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// all reads a stream to its end.
func all(r io.Reader) (events []Event, last string, retry time.Duration, err error) {
	in := NewReader(r)
	for {
		ev, err := in.Next()
		if err != nil {
			return events, in.LastID(), in.Retry(), err
		}
		events = append(events, ev)
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	ev := func(id, kind, data string) Event { return Event{ID: id, Type: kind, Data: []byte(data)} }
	for name, tt := range map[string]struct {
		in   string
		want []Event
		last string
	}{
		"nothing":              {"", nil, ""},
		"one":                  {"id: 7\nevent: version.announced\ndata: {}\n\n", []Event{ev("7", "version.announced", "{}")}, "7"},
		"no blank behind":      {"id:7\ndata:{}\n\n", []Event{ev("7", "message", "{}")}, "7"},
		"only one blank goes":  {"data:  x\n\n", []Event{ev("", "message", " x")}, ""},
		"CR LF and CR":         {"id: 1\r\ndata: a\r\n\r\nid: 2\rdata: b\r\r", []Event{ev("1", "message", "a"), ev("2", "message", "b")}, "2"},
		"lines of data":        {"data: a\ndata\ndata: b\n\n", []Event{ev("", "message", "a\n\nb")}, ""},
		"empty data":           {"data\n\n", []Event{ev("", "message", "")}, ""},
		"comments":             {": hello\n\n:\n\ndata: a\n: in between\n\n", []Event{ev("", "message", "a")}, ""},
		"the id alone":         {"id: 41\n\n", nil, "41"},
		"the id stays":         {"id: 1\ndata: a\n\ndata: b\n\n", []Event{ev("1", "message", "a"), ev("1", "message", "b")}, "1"},
		"the type does not":    {"event: x\n\ndata: a\n\n", []Event{ev("", "message", "a")}, ""},
		"an id with NUL":       {"id: 1\nid: 2\x00\ndata: a\n\n", []Event{ev("1", "message", "a")}, "1"},
		"unknown fields":       {"color: red\ndata: a\nDATA: b\n\n", []Event{ev("", "message", "a")}, ""},
		"a byte order mark":    {"\ufeffdata: a\n\n", []Event{ev("", "message", "a")}, ""},
		"cut off in an event":  {"id: 1\ndata: a\n\nid: 2\ndata: b\n", []Event{ev("1", "message", "a")}, "1"},
		"cut off in a line":    {"id: 1\ndata: a\n\nid: 2\ndata: b", []Event{ev("1", "message", "a")}, "1"},
		"cut off behind an id": {"id: 1\n", nil, ""},
	} {
		for _, r := range []io.Reader{strings.NewReader(tt.in), iotest.OneByteReader(strings.NewReader(tt.in))} {
			got, last, _, err := all(r)
			if fmt.Sprint(got) != fmt.Sprint(tt.want) || last != tt.last || !errors.Is(err, io.EOF) {
				t.Errorf("%s: %v, last id %q, %v; want %v, %q", name, got, last, err, tt.want, tt.last)
			}
		}
	}
}

func TestRetry(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{"250": 250 * time.Millisecond, "-1": 0, "": 0, "x": 0, "99999999999999999999": 0} {
		if _, _, got, _ := all(strings.NewReader("retry: " + in + "\n")); got != want {
			t.Errorf("%q is %s, want %s", in, got, want)
		}
	}
}

// A line, an event: neither takes memory without end.
func TestLimits(t *testing.T) {
	t.Parallel()
	line := "data: " + strings.Repeat("x", MaxLine-len("data: "))
	if events, _, _, err := all(strings.NewReader(line + "\n\n")); len(events) != 1 || !errors.Is(err, io.EOF) {
		t.Errorf("the longest line: %d events, %v", len(events), err)
	}
	for name, in := range map[string]string{
		"a line":  line + "x\n\n",
		"no line": strings.Repeat("x", 2*MaxLine),
		"data":    strings.Repeat(line+"\n", MaxData/MaxLine+1) + "\n",
		"blanks":  strings.Repeat("data\n", MaxData+2),
	} {
		if events, _, _, err := all(strings.NewReader(in)); len(events) != 0 || !errors.Is(err, ErrTooLong) {
			t.Errorf("%s: %d events, %v; want ErrTooLong", name, len(events), err)
		}
	}
}

// An event is there with its last byte: nothing behind it is waited for,
// though CR might be followed by LF.
func TestEventsDoNotWait(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"\n", "\r", "\r\n"} {
		r, w := io.Pipe()
		go func() { _, _ = io.WriteString(w, "data: a"+end+end[:1]) }()
		if ev, err := NewReader(r).Next(); err != nil || string(ev.Data) != "a" {
			t.Errorf("%q: %v, %v", end, ev, err)
		}
		_ = r.Close()
	}
}

// What is read does not depend on how it arrives, has no line ends within
// its lines, and written again is read the same.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{
		"id: 7\nevent: version.announced\ndata: {}\n\n", "data: a\r\rdata: b\r\n\r\n", "\ufeffretry: 10\n: x\n\n", "id\x00\n\ndata\n\n", "data: a\n\nid: 9\n\n", "event: reset\ndata:{\ndata:}\n\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		events, last, retry, err := all(strings.NewReader(string(in)))
		if !errors.Is(err, io.EOF) && !errors.Is(err, ErrTooLong) {
			t.Fatalf("%q: %v", in, err)
		}
		again, last2, retry2, err2 := all(iotest.OneByteReader(strings.NewReader(string(in))))
		if !slices.EqualFunc(events, again, equal) || last != last2 || retry != retry2 || !errors.Is(err2, err) {
			t.Fatalf("%q byte by byte: %v, %q, %v; at once: %v, %q, %v", in, again, last2, err2, events, last, err)
		}
		var out strings.Builder
		for _, ev := range events {
			if strings.ContainsAny(ev.ID+ev.Type, "\r\n") || strings.Contains(string(ev.Data), "\r") || strings.Contains(ev.ID, "\x00") || ev.Type == "" || len(ev.Data) > MaxData {
				t.Fatalf("%q has the event %q", in, ev)
			}
			fmt.Fprintf(&out, "id: %s\nevent: %s\ndata: %s\n\n", ev.ID, ev.Type, strings.ReplaceAll(string(ev.Data), "\n", "\ndata: "))
		}
		written, _, _, err := all(strings.NewReader(out.String()))
		if errors.Is(err, ErrTooLong) {
			return // "data: " before a line of data that had come without the blank
		}
		if !slices.EqualFunc(events, written, equal) {
			t.Fatalf("%q written again is %v, was %v", in, written, events)
		}
	})
}

func equal(a, b Event) bool {
	return a.ID == b.ID && a.Type == b.Type && string(a.Data) == string(b.Data)
}
