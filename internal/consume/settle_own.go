package consume

import (
	"context"

	"github.com/sluice-mq/sluice/internal/fault"
)

// SettleOwn settles receipts that a neighbour passed on, having authenticated the app. What names yet another node is
// answered Reassigned and never passed on again, so that two nodes that take each other for the owner cannot send it to and fro.
func (e *Engine) SettleOwn(_ context.Context, app, group string, acks []Ack) []*fault.Error {
	out := make([]*fault.Error, len(acks))
	lanes, nodes := e.sort(app, group, acks, out)
	for name, n := range nodes {
		for _, i := range n.index {
			out[i] = fault.New(fault.Reassigned, "the lease of group %q belongs to node %s", group, name)
		}
	}
	e.settleLanes(lanes, acks, out)
	e.count(acks, out)
	return out
}
