package rpc

import (
	"context"
	"math/rand/v2"
	"time"
)

// StreamEnd is how long a new stream may live before it should be asked to move (go-away): well before its connection
// reaches ConnectionAge, spread so that a node's clients do not all leave at once. 0: for ever.
func (s *Server) StreamEnd(ctx context.Context) time.Duration {
	if s.cfg.ConnectionAge <= 0 {
		return 0
	}
	life := time.Duration(float64(s.cfg.ConnectionAge) * (0.6 + 0.25*rand.Float64()))
	if born, ok := ConnectionBorn(ctx); ok {
		life -= s.deps.Now().Sub(born)
	}
	// A stream on a connection that is nearly over gets a moment, or a client could run in circles.
	return max(life, s.cfg.ConnectionAge/50)
}
