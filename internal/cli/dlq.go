package cli

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sluice-mq/sluice/gen/adminv1"
)

func (a *app) dlqCommand() *cobra.Command {
	return a.noun("dlq", "Dead letters: messages that a group gave up", a.dlqList(), a.dlqShow(), a.dlqRedeliver(), a.dlqPurge())
}

func (a *app) dlqList() *cobra.Command {
	req := &adminv1.ListDeadLettersRequest{}
	c := &cobra.Command{
		Use: "list GROUP", Short: "List a group's dead letters", Args: args(1, 1, "GROUP"),
		RunE: func(c *cobra.Command, names []string) error {
			req.Group = names[0]
			l := listing{head: []string{"PARTITION", "OFFSET", "ID", "ORIGIN", "ATTEMPTS", "DEAD AT", "CAUSE"}}
			err := a.deadLetters(c, req, func(d *adminv1.DeadLetter) error {
				m := d.GetMessage()
				at, _ := viewTime(d.GetDeadAtMs()).(string)
				l.add(view(d), m.GetPartition(), decimal(m.GetOffset()), m.GetId(),
					d.GetOriginTopic()+"/"+d.GetOriginPartition()+"/"+decimal(d.GetOriginOffset()), number(d.GetAttempts()), at, d.GetCause())
				return nil
			})
			if err != nil {
				return err
			}
			return a.list(l)
		},
	}
	c.Flags().Uint32Var(&req.Count, "count", 100, "how many at most")
	return c
}

func (a *app) dlqShow() *cobra.Command {
	req := &adminv1.ListDeadLettersRequest{Bodies: true, Count: 1}
	var offset int64
	c := &cobra.Command{
		Use: "show GROUP --partition P --offset N", Short: "Show one dead letter with its body", Args: args(1, 1, "GROUP"),
		RunE: func(c *cobra.Command, names []string) error {
			if !c.Flags().Changed("offset") || req.GetPartition() == "" {
				return usage("dlq show %s: needs --partition and --offset, as `sluice dlq list` shows them", names[0])
			}
			req.Group, req.Offset = names[0], &offset
			found := false
			err := a.deadLetters(c, req, func(d *adminv1.DeadLetter) error {
				found = true
				return a.print(view(d), func(w io.Writer) error {
					body := viewBytes("body", d.GetMessage().Body)
					return describeTable(w, object{
						{"id", d.GetMessage().GetId()},
						{"origin_topic", d.GetOriginTopic()},
						{"origin_partition", d.GetOriginPartition()},
						{"origin_offset", decimal(d.GetOriginOffset())},
						{"attempts", number(d.GetAttempts())},
						{"dead_at", viewTime(d.GetDeadAtMs())},
						{"cause", d.GetCause()},
						viewBytes("key", d.GetMessage().Key), body,
					})
				})
			})
			if err == nil && !found {
				return fmt.Errorf("dead letter %s/%d of group %s: does not exist", req.GetPartition(), offset, names[0])
			}
			return err
		},
	}
	c.Flags().StringVar(&req.Partition, "partition", "", "partition of the dead-letter topic")
	c.Flags().Int64Var(&offset, "offset", 0, "offset in it")
	return c
}

func (a *app) deadLetters(c *cobra.Command, req *adminv1.ListDeadLettersRequest, each func(*adminv1.DeadLetter) error) error {
	return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
		stream, err := admin.ListDeadLetters(c.Context(), req)
		if err != nil {
			return fmt.Errorf("group %s: %w", req.GetGroup(), err)
		}
		for {
			r, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("group %s: %w", req.GetGroup(), err)
			}
			if err := each(r.GetLetter()); err != nil {
				return err
			}
		}
	})
}

func (a *app) dlqRedeliver() *cobra.Command {
	req := &adminv1.RedeliverDeadLettersRequest{}
	var offset int64
	c := &cobra.Command{
		Use: "redeliver GROUP --all | --partition P --offset N", Short: "Publish dead letters again", Args: args(1, 1, "GROUP"),
		RunE: func(c *cobra.Command, names []string) error {
			one := c.Flags().Changed("offset")
			if one {
				req.Offset = &offset
			}
			if req.GetAll() == one || one && req.GetPartition() == "" {
				return usage("dlq redeliver %s: needs --all, or --partition and --offset", names[0])
			}
			req.Group = names[0]
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				p := a.startProgress("redeliver", 0)
				r, err := admin.RedeliverDeadLetters(c.Context(), req)
				p.end()
				if err != nil {
					return fmt.Errorf("group %s: %w", names[0], err)
				}
				a.done(req.GetDryRun(), "redelivered %d dead letters of group %s", r.GetRedelivered(), names[0])
				return errors.Join(a.print(view(r), func(io.Writer) error { return nil }), redeliverFailures(r))
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&req.All, "all", false, "all of them")
	f.StringVar(&req.Partition, "partition", "", "partition of the dead-letter topic")
	f.Int64Var(&offset, "offset", 0, "offset in it")
	f.StringVar(&req.ToTopic, "to-topic", "", "another topic than the origin of each")
	f.BoolVar(&req.DryRun, "dry-run", false, "say what would happen, change nothing")
	return c
}

func redeliverFailures(r *adminv1.RedeliverDeadLettersResponse) error {
	if len(r.GetFailed()) == 0 {
		return nil
	}
	first := r.GetFailed()[0].GetError()
	return fmt.Errorf("%d dead letters were not redelivered, the first one: %s; they stay where they are", len(r.GetFailed()), first.GetMessage())
}

func (a *app) dlqPurge() *cobra.Command {
	var d danger
	c := &cobra.Command{
		Use: "purge GROUP", Short: "Delete a group's dead letters", Args: args(1, 1, "GROUP"),
		RunE: func(c *cobra.Command, names []string) error {
			if err := a.confirm(d, "group", names[0], "all its dead letters will be deleted"); err != nil {
				return err
			}
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.PurgeDeadLetters(c.Context(), &adminv1.PurgeDeadLettersRequest{Group: names[0], DryRun: d.dryRun})
				if err != nil {
					return fmt.Errorf("group %s: %w", names[0], err)
				}
				a.done(d.dryRun, "purged %s dead letters of group %s", strconv.FormatUint(r.GetPurged(), 10), names[0])
				return a.print(view(r), func(io.Writer) error { return nil })
			})
		},
	}
	d.flags(c)
	return c
}
