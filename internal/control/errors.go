package control

import (
	"context"
	"errors"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/store"
)

// stored turns the store's errors into what a caller can act on. missing is the
// reason for what is not there.
func stored(err error, missing fault.Reason, what, name string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return fault.New(missing, "%s %q does not exist; check the name", what, name)
	case errors.Is(err, store.ErrExists):
		return fault.New(fault.AlreadyExists, "%s %q exists already; choose another name, or change the one there is", what, name)
	case errors.Is(err, store.ErrConflict):
		return fault.New(fault.Conflict, "%s %q was changed in the meantime; read it again, then write", what, name)
	default:
		return err
	}
}

// brokers turns a cluster's errors into what a caller can act on: which cluster, doing what.
func brokers(err error, cluster, doing string) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	var me *mq.Error
	if !errors.As(err, &me) {
		if errors.Is(err, context.DeadlineExceeded) {
			return fault.Wrap(err, fault.Unavailable, "cluster %q did not answer in time while %s; check it with `sluice cluster check %s`", cluster, doing, cluster)
		}
		return err
	}
	reason := fault.Unavailable
	switch me.Class {
	case mq.Auth:
		reason = fault.ClusterAuth
	case mq.Invalid, mq.TooLarge:
		reason = fault.InvalidArgument
	case mq.Unsupported:
		reason = fault.Unsupported
	case mq.DiskFull:
		reason = fault.DiskFull
	case mq.Exists:
		reason = fault.AlreadyExists
	case mq.NotFound:
		reason = fault.TopicNotFound
	case mq.Fenced:
		reason = fault.Conflict
	case mq.Fatal:
		reason = fault.Internal
	default: // a retry may help
	}
	e := fault.Wrap(err, reason, "cluster %q: %s: %v", cluster, doing, me)
	e.MaybeSent = me.MaybeSent
	return e
}
