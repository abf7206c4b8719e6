package app

import "fmt"

// ItemsError says that items of a batch, or of what a command did at one
// time, failed.
type ItemsError struct{ Failed, Done int }

func (e *ItemsError) Error() string {
	return fmt.Sprintf("%d of %d items failed: see \"error\" in the answers", e.Failed, e.Done)
}

// Stopped says how far a batch had come when something else went wrong: the
// answers up to there were written.
type Stopped struct {
	Done int
	Err  error
}

func (e *Stopped) Error() string {
	plural := "s"
	if e.Done == 1 {
		plural = ""
	}
	return fmt.Sprintf("after %d item%s: %s", e.Done, plural, errorText(e.Err))
}

// Unwrap returns what went wrong.
func (e *Stopped) Unwrap() error { return e.Err }
