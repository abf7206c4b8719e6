package rotation

// NextTick is nextTick, for tests.
var NextTick = nextTick
