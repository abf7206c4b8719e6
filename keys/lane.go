package keys

import "context"

// Lane is how urgent an operation on a token is. Of two that wait, the one in
// LaneNormal goes first; LaneBulk still gets a share, so that it never stands
// still.
type Lane int

// The lanes.
const (
	LaneNormal Lane = iota
	LaneBulk        // batches, and whatever a policy marks @lane("bulk")
)

type laneKey struct{}

// WithLane returns a context whose operations on a token go in lane l.
func WithLane(ctx context.Context, l Lane) context.Context {
	return context.WithValue(ctx, laneKey{}, l)
}

// LaneOf returns the lane of a context; LaneNormal if nothing was said.
func LaneOf(ctx context.Context) Lane {
	l, _ := ctx.Value(laneKey{}).(Lane)
	return l
}
