package publish

import (
	"errors"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
)

// verdict is what an answer of the driver means for one message.
type verdict struct {
	status Status
	err    *fault.Error
	// retry: certainly not stored, and the same call may succeed a little later. status and err hold if it is not tried.
	retry bool
	// elsewhere: another partition may take it sooner.
	elsewhere bool
	// preceded: held back because of an earlier message, not for its own sake.
	preceded bool
}

func (v *verdict) stored() bool { return v.status == Stored || v.status == StoredNotReplicated }

// reached tells whether the message is in a log, or may be.
func (v *verdict) reached() bool { return v.stored() || v.status == MaybeSent }

// notFoundRetries is how often "no such topic or partition" is tried again: for
// a moment after its creation a topic is not known to all brokers.
const notFoundRetries = 3

// verdicts judges an answer message by message.
func (s *slice) verdicts(rs []mq.Result) []verdict {
	vs := make([]verdict, len(rs))
	var stale bool
	for i := range rs {
		err, any := rs[i].Err, s.items[i].b.req.AnyDurability
		if i > 0 && errors.Is(err, rs[i-1].Err) && any == s.items[i-1].b.req.AnyDurability {
			vs[i] = vs[i-1] // one text for all that failed together
		} else {
			vs[i] = s.verdict(err, any)
		}
		stale = stale || vs[i].elsewhere || errors.Is(err, mq.NotFound)
	}
	if stale {
		s.state.t.refresh()
	}
	return vs
}

// verdict is the table of driver classes. MaybeSent comes before the class: such
// a message is never tried again here, since that would be a new write.
func (s *slice) verdict(err error, anyDurability bool) verdict {
	if err == nil {
		return verdict{status: Stored}
	}
	class := mq.ClassOf(err)
	if class == mq.NotDurable {
		if anyDurability {
			return verdict{status: StoredNotReplicated}
		}
		return verdict{status: StoredNotReplicated, err: s.fault(err, fault.NotReplicated, "is on the leader, but not on as many replicas as the topic asks for", 0)}
	}
	if mq.MaybeSent(err) {
		reason := fault.Unavailable
		if class == mq.Timeout {
			reason = fault.DeadlineExceeded
		}
		f := s.fault(err, reason, "may be stored: the broker did not answer; sending it again may repeat it, keep the id", 0)
		f.MaybeSent = true
		return verdict{status: MaybeSent, err: f}
	}
	switch class {
	case mq.Conn:
		return verdict{NotSent, s.fault(err, fault.Unavailable, "was not sent: no connection to its broker; try again", time.Second), true, true, false}
	case mq.Timeout:
		return verdict{NotSent, s.fault(err, fault.DeadlineExceeded, "was not sent in time; try again", 0), true, true, false}
	case mq.Busy:
		return verdict{NotSent, s.fault(err, fault.SlowDown, "was not sent: the broker is too busy; slow down", 200*time.Millisecond), true, true, false}
	case mq.NotLeader:
		return verdict{NotSent, s.fault(err, fault.Unavailable, "was not sent: the partition has no leader at the moment; try again", time.Second), true, true, false}
	case mq.TooFewReplicas:
		return verdict{NotSent, s.fault(err, fault.TooFewReplicas, "was not stored: too few of the partition's replicas are in sync; try again, or ask an operator", time.Second), true, true, false}
	case mq.Closed, mq.Fenced:
		// The cluster's driver is being replaced, or its producer id was; the next attempt finds the new one.
		return verdict{NotSent, s.fault(err, fault.Unavailable, "was not sent: the connection to the cluster was closed; try again", time.Second), true, false, false}
	case mq.NotFound:
		return verdict{Refused, s.fault(err, fault.TopicNotFound, "cannot be stored: the topic or partition does not exist on its cluster; an operator must act", 0), s.attempt < notFoundRetries, false, false}
	case mq.Auth:
		return verdict{status: NotSent, err: s.fault(err, fault.ClusterAuth, "was not sent: the brokers refused the platform's own credentials; an operator must act", 0)}
	case mq.DiskFull:
		return verdict{status: NotSent, err: s.fault(err, fault.DiskFull, "was not stored: the store has no space left", 5*time.Second)}
	case mq.TooLarge:
		return verdict{status: Refused, err: s.fault(err, fault.MessageTooLarge, "is larger than the broker takes; send less", 0)}
	case mq.Invalid:
		return verdict{status: Refused, err: s.fault(err, fault.InvalidArgument, "was refused by the broker as it is", 0)}
	case mq.Unsupported:
		return verdict{status: Refused, err: s.fault(err, fault.Unsupported, "needs what its cluster cannot do", 0)}
	default:
		return verdict{status: NotSent, err: s.fault(err, fault.Internal, "was not stored", 0)}
	}
}

// fault says which message failed, why, and what the driver said.
func (s *slice) fault(err error, reason fault.Reason, what string, retryAfter time.Duration) *fault.Error {
	f := fault.New(reason, "message for partition %s of topic %s on cluster %s %s (%v)", s.id, s.id.Topic, s.state.t.cluster, what, err)
	f.RetryAfter = retryAfter
	return f
}
