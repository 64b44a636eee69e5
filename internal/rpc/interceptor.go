package rpc

import (
	"context"
	"errors"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/sluice-mq/sluice/internal/fault"
)

// unary authorizes, recovers, maps the error and counts.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if v := recover(); v != nil {
			s.metrics.panics.Inc()
			resp, err = nil, panicError(info.FullMethod, v, debug.Stack())
		}
		if err != nil {
			err = s.faults.Status(err)
		}
		s.metrics.calls.WithLabelValues("grpc", status.Code(err).String()).Inc()
	}()
	c, err := s.authorizeGRPC(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(context.WithValue(ctx, callerKey{}, c), req)
}

// stream does the same for streams and keeps them where a revoked credential finds them.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if v := recover(); v != nil {
			s.metrics.panics.Inc()
			err = panicError(info.FullMethod, v, debug.Stack())
		}
		if err != nil {
			err = s.faults.Status(err)
		}
		s.metrics.calls.WithLabelValues("grpc", status.Code(err).String()).Inc()
	}()
	c, err := s.authorizeGRPC(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	live := s.live.add(ss, c)
	s.metrics.streams.Inc()
	defer func() {
		s.live.remove(live)
		s.metrics.streams.Dec()
	}()
	err = handler(srv, live)
	// A handler that saw its context end knows only "cancelled"; the caller should know why.
	var why *fault.Error
	if err != nil && errors.As(context.Cause(live.ctx), &why) {
		return why
	}
	return err
}
