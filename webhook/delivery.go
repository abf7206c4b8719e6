package webhook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// delivery is one event on its way to one webhook.
type delivery struct {
	event keys.Notice
	id    string // the same whenever this event is sent to this webhook
	body  []byte
}

func newDelivery(hook string, n keys.Notice) (delivery, error) {
	body, err := json.Marshal(event(n))
	if err != nil {
		return delivery{}, fmt.Errorf("encoding event %d: %w", n.ID, err)
	}
	return delivery{event: n, id: deliveryID(hook, n), body: body}, nil
}

func event(n keys.Notice) api.Event {
	e := api.Event{
		ID: n.ID, Type: string(n.Type), Time: moment(n.At), Key: n.Key, Version: n.Version, When: moment(n.When), Rotation: n.Rotation, Reason: n.Reason,
	}
	if n.Version != 0 {
		e.KeyID = keys.VersionID{Key: n.Key, Number: n.Version}.String()
	}
	return e
}

// moment leaves the zero time zero.
func moment(t time.Time) api.Time {
	if t.IsZero() {
		return api.Time{}
	}
	return api.At(t)
}

// deliveryID depends on what an event is, not on its number alone: after a
// database was made anew, numbers begin again, and a receiver that remembers
// them must not drop what is new.
func deliveryID(hook string, n keys.Notice) string {
	h := sha256.New()
	fmt.Fprintf(h, "keyhole delivery 1\n%q %d %q %d %q %d", hook, n.ID, n.Type, n.At.UnixMicro(), n.Key, n.Version)
	return hex.EncodeToString(h.Sum(nil)[:16])
}
