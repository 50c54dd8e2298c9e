//! `try(…)` and `can(…)` of bake files: their arguments may fail, so they are evaluated one by one before the expression
//! that they stand in, and are values there.
//!
//! In the body of a `for` expression, whose names are known only while it is evaluated, they stay as they are and are
//! refused.

use hcl::expr::{FuncCall, TemplateExpr};
use hcl::template::{Element, Interpolation, Template};
use hcl::{Expression, Value};

use super::expression::Scope;

impl Scope {
    /// The expression without its attempts.
    pub(super) fn attempted(&self, expression: &Expression) -> Result<Expression, String> {
        Ok(match expression {
            Expression::Array(items) => {
                Expression::Array(items.iter().map(|item| self.attempted(item)).collect::<Result<_, _>>()?)
            }
            Expression::Object(entries) => {
                let entry = |(key, value): (&hcl::expr::ObjectKey, &Expression)| {
                    self.attempted(value).map(|value| (key.clone(), value))
                };
                Expression::Object(entries.iter().map(entry).collect::<Result<_, _>>()?)
            }
            Expression::Parenthesis(inner) => Expression::Parenthesis(Box::new(self.attempted(inner)?)),
            Expression::Conditional(conditional) => {
                let mut conditional = conditional.clone();
                for part in [&mut conditional.cond_expr, &mut conditional.true_expr, &mut conditional.false_expr] {
                    *part = self.attempted(part)?;
                }
                Expression::Conditional(conditional)
            }
            Expression::Operation(operation) => {
                let mut operation = operation.clone();
                match operation.as_mut() {
                    hcl::expr::Operation::Unary(unary) => unary.expr = self.attempted(&unary.expr)?,
                    hcl::expr::Operation::Binary(binary) => {
                        binary.lhs_expr = self.attempted(&binary.lhs_expr)?;
                        binary.rhs_expr = self.attempted(&binary.rhs_expr)?;
                    }
                }
                Expression::Operation(operation)
            }
            Expression::Traversal(traversal) => {
                let mut traversal = traversal.clone();
                traversal.expr = self.attempted(&traversal.expr)?;
                Expression::Traversal(traversal)
            }
            Expression::FuncCall(call) => match self.attempt(call) {
                Some(value) => Expression::from(value),
                None => {
                    let mut call = call.clone();
                    for arg in &mut call.args {
                        *arg = self.attempted(arg)?;
                    }
                    Expression::FuncCall(call)
                }
            },
            Expression::TemplateExpr(text) => self.template(text)?,
            other => other.clone(),
        })
    }

    /// What a call of `try` or `can` comes to; `None` for others, and where nothing can be had.
    fn attempt(&self, call: &FuncCall) -> Option<Value> {
        if !call.name.namespace.is_empty() {
            return None;
        }
        match (call.name.name.as_str(), call.args.as_slice()) {
            ("try", args) => args.iter().find_map(|arg| self.evaluate(arg).ok()),
            ("can", [arg]) => Some(Value::Bool(self.evaluate(arg).is_ok())),
            _ => None,
        }
    }

    /// A text whose insertions may be attempts.
    fn template(&self, text: &TemplateExpr) -> Result<Expression, String> {
        let plain = || Ok(Expression::TemplateExpr(Box::new(text.clone())));
        if !text.to_string().contains("try(") && !text.to_string().contains("can(") {
            return plain();
        }
        let Ok(template) = Template::from_expr(text) else { return plain() };
        let mut out = String::new();
        for element in template.elements() {
            match element {
                Element::Literal(literal) => out.push_str(literal),
                Element::Interpolation(Interpolation { expr, .. }) => match self.evaluate(expr)? {
                    Value::String(text) => out.push_str(&text),
                    value @ (Value::Number(_) | Value::Bool(_)) => out.push_str(&value.to_string()),
                    _ => return Err("expected a string within a text".to_owned()),
                },
                // What it says is for the template's own rules.
                Element::Directive(_) => return plain(),
            }
        }
        Ok(Expression::String(out))
    }
}
