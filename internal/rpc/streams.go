package rpc

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"
)

// liveStreams are the open streams, so that a credential that is revoked ends them.
type liveStreams struct {
	mu   sync.Mutex // guards open
	open map[*liveStream]struct{}
}

// liveStream is one open stream; its context ends with the reason.
type liveStream struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelCauseFunc
	caller *caller
}

// Context implements grpc.ServerStream.
func (s *liveStream) Context() context.Context { return s.ctx }

func (l *liveStreams) add(ss grpc.ServerStream, c *caller) *liveStream {
	s := &liveStream{ServerStream: ss, caller: c}
	s.ctx, s.cancel = context.WithCancelCause(context.WithValue(ss.Context(), callerKey{}, c))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[s] = struct{}{}
	return s
}

func (l *liveStreams) remove(s *liveStream) {
	l.mu.Lock()
	delete(l.open, s)
	l.mu.Unlock()
	s.cancel(context.Canceled)
}

// recheck ends the streams whose credential no longer holds, and counts them. An authenticator that cannot
// answer ends nothing.
func (l *liveStreams) recheck(ctx context.Context) int {
	l.mu.Lock()
	streams := make([]*liveStream, 0, len(l.open))
	for s := range l.open {
		streams = append(streams, s)
	}
	l.mu.Unlock()
	ended := 0
	for _, s := range streams {
		if s.caller.authn == nil {
			continue
		}
		if err := s.caller.recheck(ctx); errors.Is(err, errUnauthenticated) {
			s.cancel(err)
			ended++
		}
	}
	return ended
}
