package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-mq/sluice/gen/adminv1"
	"github.com/sluice-mq/sluice/gen/nodev1"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

func (a *app) groupCommand() *cobra.Command {
	return a.noun("group", "Consumer groups",
		a.groupList(), a.groupDescribe(), a.groupSet(),
		a.groupPause("pause", "Stop delivering; partitions and positions stay", true),
		a.groupPause("resume", "Deliver again", false),
		a.groupReset(), a.groupDelete())
}

func (a *app) groupList() *cobra.Command {
	req := &adminv1.ListGroupsRequest{PageSize: pageSize}
	c := &cobra.Command{
		Use: "list", Short: "List groups", Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				l := listing{head: []string{"NAME", "TOPICS", "ORDER", "STATE", "CLIENTS", "LAG", "PAUSED"}}
				for {
					r, err := admin.ListGroups(c.Context(), req)
					if err != nil {
						return err
					}
					for _, g := range r.GetGroups() {
						topics, orders := subscriptions(g.GetGroup())
						l.add(view(g), g.GetGroup().GetName(), topics, orders, g.GetState(), number(g.GetClients()), strconv.FormatInt(g.GetLag(), 10), mark(g.GetGroup().GetPaused()))
					}
					if req.PageToken = r.GetNextPageToken(); req.GetPageToken() == "" {
						return a.list(l)
					}
				}
			})
		},
	}
	c.Flags().BoolVar(&req.Native, "native", false, "also groups that only the brokers know")
	c.Flags().StringVar(&req.Prefix, "prefix", "", "only names that begin so")
	return c
}

func subscriptions(g *nodev1.Group) (topics, orders string) {
	var ts, os []string
	for _, s := range g.GetSubscriptions() {
		ts = append(ts, s.GetTopic())
		os = append(os, orderName(s.GetOrder()))
	}
	return strings.Join(ts, ","), strings.Join(os, ",")
}

func orderName(o sluicev1.Order) string {
	if o == sluicev1.Order_ORDER_UNSPECIFIED {
		return "none"
	}
	return strings.ToLower(strings.TrimPrefix(o.String(), "ORDER_"))
}

func (a *app) groupDescribe() *cobra.Command {
	var lag bool
	c := &cobra.Command{
		Use: "describe NAME", Short: "Show a group: settings, positions, lag, members, lanes", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.DescribeGroup(c.Context(), &adminv1.DescribeGroupRequest{Name: names[0]})
				if err != nil {
					return fmt.Errorf("group %s: %w", names[0], err)
				}
				if lag {
					return a.printPositions(r.GetGroup().GetPositions())
				}
				return a.printGroup(r.GetGroup())
			})
		},
	}
	c.Flags().BoolVar(&lag, "lag", false, "only positions and lag, as a list")
	return c
}

func (a *app) printPositions(ps []*adminv1.Position) error {
	l := listing{head: positionHead}
	for _, p := range ps {
		l.add(view(p), positionRow(p)...)
	}
	return a.list(l)
}

var positionHead = []string{"TOPIC", "CLUSTER", "PARTITION", "COMMITTED", "END", "LAG"}

func positionRow(p *adminv1.Position) []string {
	return []string{p.GetTopic(), p.GetCluster(), p.GetPartition(), decimal(p.GetCommitted()), decimal(p.GetEndOffset()), decimal(p.GetLag())}
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func (a *app) printGroup(g *adminv1.GroupInfo) error {
	return a.print(view(g), func(w io.Writer) error {
		err := describeTable(w, object{
			{"name", g.GetGroup().GetName()},
			{"state", g.GetState()},
			{"protocol", g.GetProtocol()},
			{"clients", number(g.GetClients())},
			{"paused", g.GetGroup().GetPaused()},
			{"lag", decimal(g.GetLag())},
			{"version", g.GetGroup().GetVersion()},
		})
		if err != nil {
			return err
		}
		var subs, positions, members, lanes [][]string
		for _, s := range g.GetGroup().GetSubscriptions() {
			subs = append(subs, []string{
				s.GetTopic(), orderName(s.GetOrder()), s.GetStart(), number(s.GetMaxAttempts()),
				millis(s.GetBackoffMinMs()), millis(s.GetBackoffMaxMs()), s.GetTakeover(),
			})
		}
		for _, p := range g.GetPositions() {
			positions = append(positions, positionRow(p))
		}
		for _, m := range g.GetMembers() {
			members = append(members, []string{m.GetClient(), m.GetHost(), strings.Join(m.GetPartitions(), ","), m.GetId()})
		}
		for _, n := range g.GetLanes() {
			lanes = append(lanes, []string{
				n.GetTopic(), n.GetCluster(), n.GetPartition(), decimal(n.GetCommitted()), decimal(n.GetFetched()),
				strconv.Itoa(int(n.GetLeased())), strconv.Itoa(int(n.GetBuffered())), strconv.Itoa(int(n.GetWindow())), n.GetBlocked(),
			})
		}
		for _, t := range []struct {
			head []string
			rows [][]string
		}{
			{[]string{"TOPIC", "ORDER", "START", "ATTEMPTS", "BACKOFF", "TO", "TAKEOVER"}, subs},
			{positionHead, positions},
			{[]string{"MEMBER", "HOST", "PARTITIONS", "ID"}, members},
			{[]string{"LANE", "CLUSTER", "PARTITION", "COMMITTED", "FETCHED", "LEASED", "BUFFERED", "WINDOW", "BLOCKED"}, lanes},
		} {
			if len(t.rows) == 0 {
				continue
			}
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
			if err := table(w, t.head, t.rows); err != nil {
				return err
			}
		}
		return nil
	})
}

func millis(ms uint32) string {
	if ms == 0 {
		return ""
	}
	return (time.Duration(ms) * time.Millisecond).String()
}

func (a *app) groupSet() *cobra.Command {
	s := &nodev1.SubscriptionSettings{}
	req := &adminv1.SetGroupRequest{}
	var order string
	var backoffMin, backoffMax, drain time.Duration
	var nodes uint32
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a group's settings while it runs; what is not given stays", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			if c.Flags().NFlag() == 0 {
				return usage("group %s: nothing to change; give at least one flag", names[0])
			}
			var err error
			if s.Order, err = parseOrder(order); err != nil {
				return err
			}
			s.BackoffMinMs, s.BackoffMaxMs, s.DrainMs = millisOf(backoffMin), millisOf(backoffMax), millisOf(drain)
			req.Name, req.Subscriptions = names[0], []*nodev1.SubscriptionSettings{s}
			if c.Flags().Changed("nodes") {
				req.Nodes = &nodes
			}
			return a.setGroup(c, req, "changed")
		},
	}
	f := c.Flags()
	f.StringVar(&s.Topic, "topic", "", "only the subscription to this topic; all without")
	f.StringVar(&order, "order", "", "none, key or partition")
	f.StringVar(&s.Start, "start", "", "where new partitions of a new group begin: earliest, latest or an RFC 3339 time")
	f.Uint32Var(&s.MaxAttempts, "max-attempts", 0, "deliveries before a message goes to the dead letters")
	f.DurationVar(&backoffMin, "backoff-min", 0, "pause before the second attempt")
	f.DurationVar(&backoffMax, "backoff-max", 0, "longest pause between attempts")
	f.DurationVar(&drain, "drain", 0, "how long a partition waits for open leases when it moves")
	f.StringVar(&s.Takeover, "takeover", "", "deliver, or wait_lease: after an owner's crash wait for its leases")
	f.Uint32Var(&s.Run, "run", 0, "most messages that one client gets of a key in one go")
	f.Uint32Var(&nodes, "nodes", 0, "how many nodes serve the group; 0 is 3")
	f.Uint64Var(&req.Version, "if-version", 0, "only if this version is stored still")
	f.BoolVar(&req.DryRun, "dry-run", false, "say what would happen, change nothing")
	return c
}

func millisOf(d time.Duration) uint32 { return uint32(min(d.Milliseconds(), 1<<31)) }

func (a *app) setGroup(c *cobra.Command, req *adminv1.SetGroupRequest, did string) error {
	return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
		r, err := admin.SetGroup(c.Context(), req)
		if err != nil {
			return fmt.Errorf("group %s: %w", req.GetName(), err)
		}
		a.done(req.GetDryRun(), "%s group %s", did, req.GetName())
		return a.printGroup(r.GetGroup())
	})
}

func (a *app) groupPause(verb, short string, paused bool) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			return a.setGroup(c, &adminv1.SetGroupRequest{Name: names[0], Paused: &paused}, verb+"d")
		},
	}
}

func (a *app) groupReset() *cobra.Command {
	req := &adminv1.ResetGroupRequest{}
	var d danger
	var shift int64
	c := &cobra.Command{
		Use: "reset NAME --to earliest|latest|TIME|OFFSET | --shift N", Short: "Move a group's positions", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			if c.Flags().Changed("shift") {
				req.Shift = &shift
			}
			if (req.GetTo() != "") == (req.Shift != nil) {
				return usage("group reset %s: needs --to or --shift, one of them", names[0])
			}
			if err := a.confirm(d, "group", names[0], "will read from other positions: messages repeat, or are passed over"); err != nil {
				return err
			}
			req.Name, req.DryRun = names[0], d.dryRun
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.ResetGroup(c.Context(), req)
				if err != nil {
					return fmt.Errorf("group %s: %w", names[0], err)
				}
				a.done(d.dryRun, "moved %d positions of group %s", len(r.GetAfter()), names[0])
				return a.printReset(r)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&req.To, "to", "", "earliest, latest, an RFC 3339 time or an offset")
	f.Int64Var(&shift, "shift", 0, "by so many messages; back with a minus")
	f.StringVar(&req.Topic, "topic", "", "only this topic")
	f.StringVar(&req.Partition, "partition", "", "only this partition")
	d.flags(c)
	return c
}

func (a *app) printReset(r *adminv1.ResetGroupResponse) error {
	before := map[string]int64{}
	place := func(p *adminv1.Position) string {
		return p.GetTopic() + "\x00" + p.GetCluster() + "\x00" + p.GetPartition()
	}
	for _, p := range r.GetBefore() {
		before[place(p)] = p.GetCommitted()
	}
	l := listing{head: []string{"TOPIC", "CLUSTER", "PARTITION", "BEFORE", "AFTER", "LAG"}}
	for _, p := range r.GetAfter() {
		was := decimal(before[place(p)])
		l.add(object{
			{"topic", p.GetTopic()},
			{"cluster", p.GetCluster()},
			{"partition", p.GetPartition()},
			{"before", was},
			{"after", decimal(p.GetCommitted())},
			{"lag", p.GetLag()},
		}, p.GetTopic(), p.GetCluster(), p.GetPartition(), was, decimal(p.GetCommitted()), decimal(p.GetLag()))
	}
	return a.list(l)
}

func (a *app) groupDelete() *cobra.Command {
	var d danger
	c := &cobra.Command{
		Use: "delete NAME", Short: "Forget a group and its positions", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			if err := a.confirm(d, "group", names[0], "will be forgotten with its positions; if it comes back it starts anew"); err != nil {
				return err
			}
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				if _, err := admin.DeleteGroup(c.Context(), &adminv1.DeleteGroupRequest{Name: names[0], DryRun: d.dryRun}); err != nil {
					return fmt.Errorf("group %s: %w", names[0], err)
				}
				a.done(d.dryRun, "deleted group %s", names[0])
				return nil
			})
		},
	}
	d.flags(c)
	return c
}

func parseOrder(s string) (sluicev1.Order, error) {
	switch s {
	case "":
		return sluicev1.Order_ORDER_UNSPECIFIED, nil
	case "none":
		return sluicev1.Order_ORDER_NONE, nil
	case "key":
		return sluicev1.Order_ORDER_KEY, nil
	case "partition":
		return sluicev1.Order_ORDER_PARTITION, nil
	}
	return 0, usage("order %q: is unknown; use none, key or partition", s)
}
