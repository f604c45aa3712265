"""`budmlx.client` under the name by which documented code imports it."""

from budmlx.client import AsyncBudClient as AsyncBudClient
from budmlx.client import BudAPIError as BudAPIError
from budmlx.client import BudClient as BudClient
from budmlx.client import RateLimitError as RateLimitError
