package rest

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"keyhole/keys"
)

func listSubscriptions(c *call) error {
	list, err := c.h.service.Subscriptions(c.ctx, c.req)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &list)
}

func subscribe(c *call) error {
	if err := c.nothing(); err != nil {
		return err
	}
	out, err := c.h.service.Subscribe(c.ctx, c.req, c.vars["key"])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &out)
}

func unsubscribe(c *call) error {
	if err := c.h.service.Unsubscribe(c.ctx, c.req, c.vars["key"]); err != nil {
		return err
	}
	c.status = http.StatusNoContent
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func acknowledge(c *call) error {
	if err := c.nothing(); err != nil {
		return err
	}
	n, err := c.version()
	if err != nil {
		return err
	}
	out, err := c.h.service.Acknowledge(c.ctx, c.req, c.vars["key"], n)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &out)
}

// maxFollowed is how many keys one stream may name.
const maxFollowed = 100

// followed reads which keys a stream is about: none, that is all, or some,
// as repeated parameters or joined by commas.
func followed(values []string) ([]string, error) {
	var names []string
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			if len(names) == maxFollowed {
				return nil, keys.Errorf(keys.ErrInvalid, "a stream names %d keys at most; without \"key\" it is about all that you may see", maxFollowed)
			}
			if err := keys.CheckName(name); err != nil {
				return nil, err
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// resumed reads the id of the last event that the caller saw; ok is false
// if there is none. What a client adds when it comes again goes before what
// stands in its URL.
func resumed(header, query []string) (id uint64, ok bool, err error) {
	where, values := `"after"`, query
	if len(header) > 0 {
		where, values = "Last-Event-ID", header
	}
	switch len(values) {
	case 0:
		return 0, false, nil
	case 1:
	default:
		return 0, false, keys.Errorf(keys.ErrMalformed, "%s is there several times; send one", where)
	}
	if id, err = strconv.ParseUint(values[0], 10, 63); err != nil {
		return 0, false, keys.Errorf(keys.ErrInvalid, "%s must be the id of an event", where)
	}
	return id, true, nil
}
