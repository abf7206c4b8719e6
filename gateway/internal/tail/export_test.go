package tail

import "time"

// Rest sets for how long a store that failed is not asked again.
func (t *Tail) Rest(d time.Duration) { t.rest = d }
