package rest

import "net/http"

func listNodes(c *call) error {
	out, err := c.h.service.Nodes(c.ctx, c.req)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, &out)
}
