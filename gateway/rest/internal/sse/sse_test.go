package sse_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"keyhole/gateway/rest/internal/sse"
)

// recorder is a response that takes deadlines, until it is stuck.
type recorder struct {
	*httptest.ResponseRecorder
	deadlines []time.Time
	stuck     error
}

func (r *recorder) SetWriteDeadline(t time.Time) error {
	r.deadlines = append(r.deadlines, t)
	return nil
}

func (r *recorder) FlushError() error {
	r.Flush()
	return r.stuck
}

func begin(t *testing.T) (*recorder, *sse.Writer) {
	t.Helper()
	r := &recorder{ResponseRecorder: httptest.NewRecorder()}
	w := sse.New(r, time.Minute)
	if err := w.Begin(); err != nil {
		t.Fatal(err)
	}
	return r, w
}

func TestStream(t *testing.T) {
	t.Parallel()
	r, w := begin(t)
	for _, err := range []error{w.Retry(2 * time.Second), w.Comment(""), w.Comment("why\r\nid: 7\n\n"), w.Event(7, "x.y", []byte(`{"a":"b\n"}`))} {
		if err != nil {
			t.Error(err)
		}
	}
	want := "retry: 2000\n\n: \n\n: why  id: 7  \n\nid: 7\nevent: x.y\ndata: {\"a\":\"b\\n\"}\n\n"
	if got := r.Body.String(); got != want || w.Size() != len(want) {
		t.Errorf("%q of %d bytes, want %q", got, w.Size(), want)
	}
	if r.Header().Get("Content-Type") != sse.MediaType || r.Code != http.StatusOK || !r.Flushed {
		t.Errorf("%d %v", r.Code, r.Header())
	}
	if last := r.deadlines[len(r.deadlines)-1]; !last.IsZero() {
		t.Errorf("between events the deadline is %s", last)
	}
	w.End()
	if last := r.deadlines[len(r.deadlines)-1]; last.IsZero() {
		t.Error("the end has no deadline")
	}
}

func TestReaderThatIsGone(t *testing.T) {
	t.Parallel()
	r, w := begin(t)
	r.stuck = errors.New("broken pipe")
	for _, err := range []error{w.Retry(time.Second), w.Comment("x"), w.Event(1, "x", []byte("{}"))} {
		if !errors.Is(err, sse.ErrReader) {
			t.Errorf("%v", err)
		}
	}
}

// A response without deadlines is not begun: nothing would bound a reader.
func TestResponseWithoutDeadlines(t *testing.T) {
	t.Parallel()
	r := httptest.NewRecorder()
	if err := sse.New(r, time.Minute).Begin(); err == nil || r.Header().Get("Content-Type") != "" {
		t.Errorf("%v, %v", err, r.Header())
	}
}

// Nothing that is sent adds a line that a reader takes for a field.
func FuzzLines(f *testing.F) {
	for _, s := range []string{"", "x", "a\nid: 1", "a\rb", "\n\n", "\x00", "\xff"} {
		f.Add(uint64(7), s, []byte(s))
	}
	f.Fuzz(func(t *testing.T, id uint64, text string, data []byte) {
		r, w := begin(t)
		if err := w.Comment(text); err != nil {
			t.Error(err)
		}
		if got := r.Body.String(); strings.Count(got, "\n") != 2 || strings.Contains(got, "\r") || !strings.HasPrefix(got, ": ") || !strings.HasSuffix(got, "\n\n") {
			t.Errorf("the comment %q", got)
		}
		r.Body.Reset()
		err := w.Event(id, text, data)
		got := r.Body.String()
		switch {
		case strings.ContainsAny(text+string(data), "\r\n"):
			if err == nil || errors.Is(err, sse.ErrReader) || got != "" {
				t.Errorf("%v, %q", err, got)
			}
		case err != nil || strings.Count(got, "\n") != 4 || !strings.HasSuffix(got, "\ndata: "+string(data)+"\n\n"):
			t.Errorf("%v, %q", err, got)
		}
	})
}
