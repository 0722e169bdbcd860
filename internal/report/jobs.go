package report

import (
	"fmt"
	"time"

	"github.com/aethervm/aether/internal/bench"
)

// jobTables shows what the scripted agent got done, and the errors that were provoked.
func jobTables(r *bench.Results, with []measured) []table {
	var systems []measured
	for _, m := range with {
		if r.Jobs[m.id] != nil {
			systems = append(systems, m)
		}
	}
	if len(systems) == 0 {
		return nil
	}
	jobs := table{
		Title: "Jobs", Class: "matrix",
		Text: "Under each job: how its success was told. Calls, bytes and tokens are those of the system's own control plane, without bulk data.",
		Head: head("Job"),
	}
	faults := table{Title: "Provoked errors", Class: "matrix", Fold: true, Head: head("Error"),
		Text: "An error counts when kind, cause and remedy can be read by a program."}
	jobRows, faultRows := map[string]int{}, map[string]int{}
	for col, m := range systems {
		jobs.Head = append(jobs.Head, headCell{Text: m.label()})
		faults.Head = append(faults.Head, headCell{Text: m.label()})
		for _, j := range r.Jobs[m.id].Jobs {
			*jobs.at(jobRows, j.Name, jobSub(j), col+1, len(systems)) = jobCell(j)
		}
		for _, e := range r.Jobs[m.id].Errors {
			*faults.at(faultRows, e.Name, "", col+1, len(systems)) = errorCell(e)
		}
	}
	cost := []cell{rowHead("Core jobs together", "what every system can do")}
	for _, m := range systems {
		c := cell{Text: "–", Sub: "a core job failed"}
		if sum := r.Jobs[m.id].Cost; sum != nil {
			c = cell{Text: costText(*sum)}
		}
		cost = append(cost, c)
	}
	jobs.Rows = append(jobs.Rows, cost)
	tables := append([]table{jobs}, agentTable(r, with)...)
	if len(faults.Rows) > 0 {
		tables = append(tables, faults)
	}
	return tables
}

// agentTable shows what an agent got done over MCP, if any did.
func agentTable(r *bench.Results, with []measured) []table {
	var systems []measured
	for _, m := range with {
		if r.Agent[m.id] != nil {
			systems = append(systems, m)
		}
	}
	if len(systems) == 0 {
		return nil
	}
	t := table{
		Title: "Jobs over MCP", Class: "matrix", Head: head("Job"),
		Text: "Over each system the same surface. Jobs about budgets wait for the budget's window. Not scored.",
	}
	rows := map[string]int{}
	for col, m := range systems {
		t.Head = append(t.Head, headCell{Text: m.label()})
		for _, j := range r.Agent[m.id].Jobs {
			*t.at(rows, j.Name, j.Verified, col+1, len(systems)) = jobCell(j)
		}
	}
	return []table{t}
}

// at returns the cell of a row, which is made if it is missing, in column col of columns. Cells that
// nothing is put into say so.
func (t *table) at(rows map[string]int, name, sub string, col, columns int) *cell {
	i, ok := rows[name]
	if !ok {
		i = len(t.Rows)
		rows[name] = i
		row := []cell{rowHead(name, sub)}
		for range columns {
			row = append(row, cell{Text: "not tried", Class: "none"})
		}
		t.Rows = append(t.Rows, row)
	}
	return &t.Rows[i][col]
}

func jobSub(j bench.JobResult) string {
	if j.Needs == "core" {
		return j.Verified
	}
	return "needs " + j.Needs + "; " + j.Verified
}

func jobCell(j bench.JobResult) cell {
	switch {
	case j.Done:
		return cell{
			Mark: "done", Class: "better", Text: number(float64(j.Duration)/float64(time.Millisecond)) + " ms",
			Sub: costText(j.Cost),
		}
	case j.NoAbility:
		return cell{Mark: "cannot", Class: "unknown", Sub: j.Error}
	}
	return cell{Mark: "failed", Class: "worse", Sub: j.Error}
}

func costText(c bench.Cost) string {
	return fmt.Sprintf("%s, %s B, %s", plural(c.Calls, "call"), number(float64(c.WireBytes)), plural(c.Tokens, "token"))
}

func errorCell(e bench.ProvokedError) cell {
	c := cell{Mark: "typed", Class: "better", Text: e.Kind, Sub: e.Text}
	if !e.Typed {
		c.Mark, c.Class = "not typed", "worse"
		if len(e.Missing) > 0 {
			c.Text = "lacks " + enumerate(e.Missing)
		}
	}
	return c
}
